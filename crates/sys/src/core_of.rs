//! Where threads run: which core a thread ran on last, and pinning the calling thread to one. A fault answered on the core that faulted needs no wake-up of
//! an idle core, which costs more than all the rest of a fault.

pub use rustix::thread::CpuSet;
use rustix::thread::Pid;

/// The core that thread `tid` of this process ran on last; `None` when it is gone.
pub fn core_of(tid: u32) -> Option<usize> {
    let mut path = *b"/proc/self/task/\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut at = b"/proc/self/task/".len();
    let mut digits = [0u8; 10];
    let (mut rest, mut count) = (tid, 0);
    while rest > 0 || count == 0 {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
    }
    for digit in digits[..count].iter().rev() {
        path[at] = *digit;
        at += 1;
    }
    path[at..at + 5].copy_from_slice(b"/stat");
    let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?;
    let mut text = [0u8; 512];
    let got = rustix::io::read(&fd, &mut text).ok()?;
    // proc_pid_stat(5): the name is in parentheses and may hold spaces; `processor` is field 39, the 37th after it.
    let after = text[..got].iter().rposition(|byte| *byte == b')')? + 2;
    let field = text.get(after..got)?.split(|byte| *byte == b' ').nth(36)?;
    Some(field.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit.wrapping_sub(b'0'))))
}

pub fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
        // Not allowed there (cpuset): stay where the scheduler puts us.
        let _ = rustix::thread::sched_setaffinity(None::<Pid>, &set);
    }
}

/// The cores that the calling thread may run on.
pub fn allowed() -> CpuSet {
    rustix::thread::sched_getaffinity(None::<Pid>).unwrap_or_else(|_| CpuSet::new())
}

/// The calling thread runs on these cores only.
pub fn run_on(set: &CpuSet) {
    let _ = rustix::thread::sched_setaffinity(None::<Pid>, set);
}
