//! The one way this project's native code speaks inside somebody else's program: one line, one write(2) to descriptor 2, no buffer, no lock.

use std::fmt::{self, Write};

use rustix::fd::BorrowedFd;

/// Longer lines are cut: one write of this size is not torn apart by other writers of a pipe (PIPE_BUF is 4096).
const LINE_BYTES: usize = 1024;

struct Line {
    bytes: [u8; LINE_BYTES],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_BYTES - 1 - self.used;
        let taken = text.len().min(room);
        self.bytes[self.used..self.used + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        Ok(())
    }
}

/// `say(format_args!(...))` writes `ramster: ...` and a newline to standard error. Nothing happens if that fails.
pub fn say(message: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
    let _ = line.write_str("ramster: ");
    let _ = line.write_fmt(message);
    line.bytes[line.used] = b'\n';
    // SAFETY: descriptor 2 is borrowed for one call; if the program closed it the call fails with EBADF and that is all.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(stderr, &line.bytes[..=line.used]);
}
