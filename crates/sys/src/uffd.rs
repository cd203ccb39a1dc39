//! Step 14: userfaultfd. Covers opening it, its features and its ioctls, with errno given its meaning here once;
//! not what a fault means or which page to bring.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::quiet::move_high;

const API: u64 = 0xAA;
const IOC_NEW: u64 = 0xAA00;

/// Feature bits of UFFDIO_API that we ask about (include/uapi/linux/userfaultfd.h).
pub mod feature {
    pub const WP: u64 = 1 << 0;
    pub const THREAD_ID: u64 = 1 << 8;
    pub const EXACT_ADDRESS: u64 = 1 << 11;
    pub const POISON: u64 = 1 << 14;
    pub const MOVE: u64 = 1 << 16;
}

/// What the pager asks for when the kernel has it. Only WP (Linux 5.7) is required; the rest have fallbacks.
pub const WANTED: u64 = feature::WP | feature::THREAD_ID | feature::POISON | feature::MOVE;

const fn iowr(nr: u64, bytes: u64) -> u64 {
    (3 << 30) | (bytes << 16) | (API << 8) | nr
}

const fn ior(nr: u64, bytes: u64) -> u64 {
    (2 << 30) | (bytes << 16) | (API << 8) | nr
}

const REGISTER: u64 = iowr(0x00, 32);
const UNREGISTER: u64 = ior(0x01, 16);
const WAKE: u64 = ior(0x02, 16);
const COPY: u64 = iowr(0x03, 40);
const MOVE: u64 = iowr(0x05, 40);
const WRITEPROTECT: u64 = iowr(0x06, 24);
const POISON: u64 = iowr(0x08, 32);
const API_CALL: u64 = iowr(0x3F, 24);

const REGISTER_MISSING: u64 = 1;
const REGISTER_WP: u64 = 2;
const MODE_DONTWAKE: u64 = 1;
const MOVE_ALLOW_HOLES: u64 = 2;
const WRITEPROTECT_ON: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const FAULT_FLAG_WP: u64 = 2;

/// How this process got its userfaultfd; `ramster doctor` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// /dev/userfaultfd: its file permissions decide.
    Device,
    /// The system call: CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1.
    Syscall,
}

#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    features: u64,
    door: Door,
}

/// One fault, as the kernel reports it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub addr: usize,
    pub thread: u32,
    /// A write to a write-protected page, not a missing page.
    pub write_protect: bool,
}

/// Why a fill moved nothing. errno gets its meaning here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FillError {
    /// EEXIST: the page is there already; only wake.
    Present,
    /// EAGAIN: the mapping is changing under us (or another thread fills it); try again.
    Again,
    /// ENOENT, EINVAL, EFAULT: no such registered mapping any more.
    Gone,
    /// EBUSY: the page is pinned or shared after a fork; it cannot be moved.
    Busy,
    /// ESRCH: the process is on its way out.
    Exiting,
    NoMemory,
    /// A number, not an [`Errno`]: to print that one asks libc for words, which may lie in managed memory.
    Other(i32),
}

impl From<Errno> for FillError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EXIST => Self::Present,
            Errno::AGAIN => Self::Again,
            Errno::NOENT | Errno::INVAL | Errno::FAULT => Self::Gone,
            Errno::BUSY => Self::Busy,
            Errno::SRCH => Self::Exiting,
            Errno::NOMEM => Self::NoMemory,
            other => Self::Other(other.raw_os_error()),
        }
    }
}

/// Bytes that were done before the error, and the error.
pub type Partial = (usize, FillError);

impl Uffd {
    /// Opens a userfaultfd that also sees faults of system calls, and agrees on features.
    ///
    /// Fails with EPERM/EACCES (privilege), ENOSYS (kernel) or EINVAL (no WP: older than 5.7).
    pub fn open() -> Result<Self, Errno> {
        let (raw, door) = match open_device() {
            Ok(fd) => (fd, Door::Device),
            Err(_) => (open_syscall()?, Door::Syscall),
        };
        let raw = move_high(raw);
        // The kernel says what it has; asking for an unknown bit would fail, so look first and open the real one after.
        let features = api(raw.as_fd(), 0)?;
        drop(raw);
        let raw = match door {
            Door::Device => open_device()?,
            Door::Syscall => open_syscall()?,
        };
        let fd = move_high(raw);
        let features = features & WANTED;
        api(fd.as_fd(), features)?;
        if features & feature::WP == 0 {
            return Err(Errno::INVAL);
        }
        Ok(Self { fd, features, door })
    }

    /// From now on [`Uffd::read`] fails with EAGAIN rather than wait, and poll works.
    pub fn never_block(&self) {
        // Only fails for a descriptor that is not open.
        let _ = rustix::fs::fcntl_setfl(&self.fd, rustix::fs::OFlags::NONBLOCK);
    }

    pub fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }

    pub fn door(&self) -> Door {
        self.door
    }

    /// From now on a missing page in the range, and a write to a protected one, comes to [`Uffd::read`].
    pub fn register(&self, start: usize, len: usize) -> Result<(), Errno> {
        let mut arg = [start as u64, len as u64, REGISTER_MISSING | REGISTER_WP, 0];
        ioctl(self.fd.as_fd(), REGISTER, &mut arg)
    }

    pub fn unregister(&self, start: usize, len: usize) -> Result<(), Errno> {
        let mut arg = [start as u64, len as u64];
        ioctl(self.fd.as_fd(), UNREGISTER, &mut arg)
    }

    pub fn wake(&self, start: usize, len: usize) {
        let mut arg = [start as u64, len as u64];
        // Waking nobody is not an error, and a range that is gone has nobody to wake.
        let _ = ioctl(self.fd.as_fd(), WAKE, &mut arg);
    }

    /// Copies `src` to the missing pages at `dst` and wakes their waiters. EAGAIN is retried here.
    pub fn copy(&self, dst: usize, src: &[u8]) -> Result<usize, Partial> {
        self.fill(COPY, dst, src.as_ptr() as usize, src.len(), 0)
    }

    /// The same without waking: for who still holds a lock that the woken thread's next fault needs, and calls [`Uffd::wake`] when it does not.
    pub fn copy_unwoken(&self, dst: usize, src: &[u8]) -> Result<usize, Partial> {
        self.fill(COPY, dst, src.as_ptr() as usize, src.len(), MODE_DONTWAKE)
    }

    /// Moves whole page frames, no copy. With holes allowed, missing source pages are skipped over.
    pub fn move_pages(&self, dst: usize, src: usize, len: usize, wake: bool) -> Result<usize, Partial> {
        let mode = MOVE_ALLOW_HOLES | if wake { 0 } else { MODE_DONTWAKE };
        self.fill(MOVE, dst, src, len, mode)
    }

    /// Marks missing pages so that an access raises SIGBUS.
    pub fn poison(&self, dst: usize, len: usize) -> Result<(), FillError> {
        let mut arg = [dst as u64, len as u64, 0, 0];
        ioctl(self.fd.as_fd(), POISON, &mut arg).map_err(FillError::from)
    }

    pub fn write_protect(&self, start: usize, len: usize, on: bool) -> Result<(), FillError> {
        let mut arg = [start as u64, len as u64, if on { WRITEPROTECT_ON } else { 0 }];
        loop {
            match ioctl(self.fd.as_fd(), WRITEPROTECT, &mut arg) {
                Err(Errno::AGAIN) => std::thread::yield_now(),
                other => return other.map_err(FillError::from),
            }
        }
    }

    /// Reads faults: blocks until one is there, unless the descriptor was set non-blocking. 0 only when there is none.
    pub fn read(&self, faults: &mut [Fault; 8]) -> Result<usize, Errno> {
        let mut raw = [0u8; 8 * 32];
        let got = rustix::io::read(&self.fd, &mut raw)?;
        let mut count = 0;
        for message in raw[..got].chunks_exact(32) {
            if message[0] != EVENT_PAGEFAULT {
                continue;
            }
            let word = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap_or([0; 8]));
            let flags = word(8);
            faults[count] =
                Fault { addr: word(16) as usize & !4095, thread: word(24) as u32, write_protect: flags & FAULT_FLAG_WP != 0 };
            count += 1;
        }
        Ok(count)
    }

    fn fill(&self, request: u64, dst: usize, src: usize, len: usize, mode: u64) -> Result<usize, Partial> {
        let mut done = 0;
        loop {
            let mut arg = [(dst + done) as u64, (src + done) as u64, (len - done) as u64, mode, 0];
            let result = ioctl(self.fd.as_fd(), request, &mut arg);
            let moved = arg[4] as i64;
            if moved > 0 {
                done += moved as usize;
            }
            match result {
                Ok(()) => return Ok(len),
                Err(Errno::AGAIN) if done >= len => return Ok(len),
                // EAGAIN: part was done, or the mapping is being changed by another thread. Neither lasts.
                Err(Errno::AGAIN) => {
                    if moved <= 0 {
                        std::thread::yield_now();
                    }
                }
                Err(errno) => return Err((done, errno.into())),
            }
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open_device() -> Result<OwnedFd, Errno> {
    let device =
        rustix::fs::open(c"/dev/userfaultfd", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    // SAFETY: USERFAULTFD_IOC_NEW takes open flags by value and returns a new descriptor that nobody else owns.
    let raw = unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW, libc::O_CLOEXEC) };
    if raw < 0 {
        return Err(last_errno());
    }
    // SAFETY: as above, the descriptor is fresh and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn open_syscall() -> Result<OwnedFd, Errno> {
    // SAFETY: userfaultfd(2) takes flags by value and returns a new descriptor that nobody else owns.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if raw < 0 {
        return Err(last_errno());
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

fn api(fd: BorrowedFd<'_>, features: u64) -> Result<u64, Errno> {
    let mut arg = [API, features, 0];
    ioctl(fd, API_CALL, &mut arg)?;
    Ok(arg[1])
}

fn ioctl<const N: usize>(fd: BorrowedFd<'_>, request: u64, arg: &mut [u64; N]) -> Result<(), Errno> {
    // SAFETY: every userfaultfd request used here reads and writes at most the array it is given (its size is in the
    // request number). What the pages at those addresses mean is the pager's promise: it names only ranges that it mapped.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, arg.as_mut_ptr()) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    // ioctl and syscall set errno; it holds a small positive number.
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
