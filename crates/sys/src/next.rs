//! What the preload library's functions stand in front of: the kernel's memory calls, libc's own malloc family under its private names, errno.
//! Nothing here goes through a symbol that the preload library takes over. The functions look safe because the preload crate may not say
//! `unsafe`: their addresses come from C programs, who keep the promises that mmap(2) and malloc(3) ask for.

use std::ffi::{CStr, c_int, c_long, c_void};
use std::sync::OnceLock;

/// What mmap and mremap return when they fail.
pub const FAILED: usize = usize::MAX;
pub const PAGE_BYTES: usize = 4096;

/// A raw memory call: its result, with errno set like libc's wrapper when it is `FAILED`.
fn call(number: c_long, a: [usize; 6]) -> usize {
    // SAFETY: the C caller answers for what its own call does to its own memory; syscall(2) itself only passes registers on.
    unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) as usize }
}

pub fn mmap(addr: usize, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> usize {
    call(libc::SYS_mmap, [addr, len, prot as usize, flags as usize, fd as usize, offset as usize])
}

pub fn munmap(addr: usize, len: usize) -> i32 {
    call(libc::SYS_munmap, [addr, len, 0, 0, 0, 0]) as i32
}

pub fn mremap(old: usize, old_len: usize, new_len: usize, flags: i32, new: usize) -> usize {
    call(libc::SYS_mremap, [old, old_len, new_len, flags as usize, new, 0])
}

pub fn madvise(addr: usize, len: usize, advice: i32) -> i32 {
    call(libc::SYS_madvise, [addr, len, advice as usize, 0, 0, 0]) as i32
}

pub fn mprotect(addr: usize, len: usize, prot: i32) -> i32 {
    call(libc::SYS_mprotect, [addr, len, prot as usize, 0, 0, 0]) as i32
}

pub fn mlock(addr: usize, len: usize) -> i32 {
    call(libc::SYS_mlock, [addr, len, 0, 0, 0, 0]) as i32
}

pub fn mlock2(addr: usize, len: usize, flags: u32) -> i32 {
    call(libc::SYS_mlock2, [addr, len, flags as usize, 0, 0, 0]) as i32
}

pub fn munlock(addr: usize, len: usize) -> i32 {
    call(libc::SYS_munlock, [addr, len, 0, 0, 0, 0]) as i32
}

pub fn mlockall(flags: i32) -> i32 {
    call(libc::SYS_mlockall, [flags as usize, 0, 0, 0, 0, 0]) as i32
}

pub fn munlockall() -> i32 {
    call(libc::SYS_munlockall, [0; 6]) as i32
}

pub fn errno() -> i32 {
    // SAFETY: a thread's errno is always there.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
}

pub fn libc_malloc(size: usize) -> usize {
    // SAFETY: any size is fine.
    unsafe { __libc_malloc(size) as usize }
}

pub fn libc_calloc(count: usize, size: usize) -> usize {
    // SAFETY: any sizes are fine.
    unsafe { __libc_calloc(count, size) as usize }
}

pub fn libc_realloc(block: usize, size: usize) -> usize {
    // SAFETY: the C caller says that `block` is a live block; it lies outside the arena, so libc made it.
    unsafe { __libc_realloc(block as *mut c_void, size) as usize }
}

pub fn libc_memalign(alignment: usize, size: usize) -> usize {
    // SAFETY: any sizes are fine.
    unsafe { __libc_memalign(alignment, size) as usize }
}

pub fn libc_free(block: usize) {
    // SAFETY: as for realloc.
    unsafe { __libc_free(block as *mut c_void) }
}

/// What libc has under no private name. Looked up before the first managed block exists: dlopen and dlsym may allocate.
struct Found {
    malloc_usable_size: Option<unsafe extern "C" fn(*mut c_void) -> usize>,
    fork: Option<unsafe extern "C" fn() -> libc::pid_t>,
}

static FOUND: OnceLock<Found> = OnceLock::new();

/// Finds libc's functions; to be called once, early.
pub fn find() {
    FOUND.get_or_init(|| {
        // SAFETY: the names are C strings, and NOLOAD only finds the libc that is loaded already; it is never unloaded.
        let libc_itself = unsafe { libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        let symbol = |name: &CStr| {
            // SAFETY: as above.
            let address = unsafe { libc::dlsym(libc_itself, name.as_ptr()) };
            (!libc_itself.is_null() && !address.is_null()).then_some(address)
        };
        Found {
            // SAFETY: these are libc's functions of these types, or nothing.
            malloc_usable_size: symbol(c"malloc_usable_size").map(|f| unsafe { std::mem::transmute::<*mut c_void, _>(f) }),
            // SAFETY: as above.
            fork: symbol(c"_Fork").map(|f| unsafe { std::mem::transmute::<*mut c_void, _>(f) }),
        }
    });
}

pub fn libc_usable_size(block: usize) -> usize {
    match FOUND.get().and_then(|found| found.malloc_usable_size) {
        // SAFETY: as for realloc.
        Some(usable) => unsafe { usable(block as *mut c_void) },
        None => 0,
    }
}

/// libc's `_Fork`, which runs no atfork handlers.
pub fn fork_without_handlers() -> i32 {
    match FOUND.get().and_then(|found| found.fork) {
        // SAFETY: the caller wants this process forked.
        Some(fork) => unsafe { fork() },
        None => {
            set_errno(libc::ENOSYS);
            -1
        }
    }
}

/// Copies between two live blocks of the C program that do not overlap.
pub fn copy(from: usize, to: usize, len: usize) {
    // SAFETY: realloc's caller owns both blocks, and each is at least `len` long.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len) }
}

pub fn zero(block: usize, len: usize) {
    // SAFETY: calloc made this block, at least `len` long, and has not given it out yet.
    unsafe { std::ptr::write_bytes(block as *mut u8, 0, len) }
}

/// Stores a result where a C caller wants it (`posix_memalign`).
pub fn store(target: usize, value: usize) {
    // SAFETY: the C caller passes the address of a pointer of its own.
    unsafe { *(target as *mut usize) = value }
}

/// Runs three functions around every fork(2) of libc.
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> bool {
    // SAFETY: the functions are static and take nothing.
    unsafe { libc::pthread_atfork(Some(as_unsafe(prepare)), Some(as_unsafe(parent)), Some(as_unsafe(child))) == 0 }
}

fn as_unsafe(f: extern "C" fn()) -> unsafe extern "C" fn() {
    f
}

static EXIT_KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();

/// `left(number)` will run at the exit of each thread that called [`note_thread`] with that number. To be called once, early: keys below 32 need no memory.
pub fn at_thread_exit(left: extern "C" fn(usize)) -> bool {
    let mut key = 0;
    // SAFETY: a pointer and a word are passed alike on every ABI we build for; the key is a local word.
    let made = unsafe {
        let left = std::mem::transmute::<extern "C" fn(usize), unsafe extern "C" fn(*mut c_void)>(left);
        libc::pthread_key_create(&mut key, Some(left)) == 0
    };
    made && EXIT_KEY.set(key).is_ok()
}

/// Gives this thread a number, not zero, to leave with.
pub fn note_thread(number: usize) {
    if let Some(key) = EXIT_KEY.get() {
        // SAFETY: the key exists; its value is a number, never a pointer to anything.
        unsafe { libc::pthread_setspecific(*key, number as *const c_void) };
    }
}

/// Ends the process at once: no destructors, no atexit handlers, which may expect a program that has started.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Where the dynamic linker's code lies. It allocates TLS vectors and link maps by the program's malloc.
pub fn linker_range() -> std::ops::Range<usize> {
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid description, and `found` is the range below.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<std::ops::Range<usize>>()) };
        // SAFETY: the program headers of a loaded object stay where they are.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let here = __tls_get_addr as *const () as usize;
        let ends =
            |p: &libc::Elf64_Phdr| (info.dlpi_addr + p.p_vaddr) as usize..(info.dlpi_addr + p.p_vaddr + p.p_memsz) as usize;
        let mut loaded = headers.iter().filter(|p| p.p_type == libc::PT_LOAD).map(ends);
        if !loaded.clone().any(|range| range.contains(&here)) {
            return 0;
        }
        let first = loaded.next().unwrap_or_default();
        *found = first.start..loaded.next_back().unwrap_or(first).end;
        1
    }
    let mut found = 0..0;
    // SAFETY: the callback fits the type that the function asks for, and `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

unsafe extern "C" {
    fn __tls_get_addr(index: *mut c_void) -> *mut c_void;
}

/// Every signal blocked on this thread, until [`SignalMask::restore`].
#[derive(Clone, Copy)]
pub struct SignalMask(libc::sigset_t);

impl SignalMask {
    pub fn block_all() -> Self {
        // SAFETY: plain calls on local signal sets.
        unsafe {
            let mut all = std::mem::zeroed::<libc::sigset_t>();
            let mut before = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalMask(before)
        }
    }

    pub fn restore(&self) {
        // SAFETY: a mask that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_linker_is_found_and_holds_its_own_function_only() {
        let range = linker_range();
        assert!(range.contains(&(__tls_get_addr as *const () as usize)));
        assert!(!range.contains(&(libc::getpid as *const () as usize)));
    }

    #[test]
    fn a_refused_raw_call_sets_errno_like_libc() {
        assert_eq!(mmap(0, 0, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0), FAILED);
        assert_eq!(errno(), libc::EINVAL);
        assert_eq!(munmap(1, 4096), -1);
        assert_eq!(errno(), libc::EINVAL);
    }

    #[test]
    fn libc_tells_how_large_its_block_is() {
        find();
        let block = libc_malloc(1000);
        assert!((1000..2000).contains(&libc_usable_size(block)));
        libc_free(block);
    }
}
