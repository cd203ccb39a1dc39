//! Two words per thread that malloc can read at any moment: how deep the thread is inside this project's own code, and its seat at the gate.
//!
//! Rust's own `thread_local!` asks the dynamic linker where the variable is, and after a dlopen that may call malloc, which would ask again.
//! So the words lie in the initial TLS block, at an offset that is known when the library is loaded (the "initial exec" model).

use std::arch::{asm, global_asm};
use std::cell::Cell;

/// Zero when a thread starts.
#[repr(C)]
pub struct ThreadWord {
    /// Over zero: the thread runs code of ours (for good, in threads of ours), and what it asks libc for must never be managed.
    pub inside: Cell<u32>,
    /// What the preload library's gate knows about the thread.
    pub seat: Cell<u32>,
}

global_asm!(
    ".pushsection .tbss.ramster_thread_word,\"awT\",@nobits",
    ".p2align 3",
    ".globl ramster_thread_word",
    ".hidden ramster_thread_word",
    ".type ramster_thread_word, @object",
    ".size ramster_thread_word, 8",
    "ramster_thread_word:",
    ".zero 8",
    ".popsection",
);

/// This thread's words. Not `Send`: they cannot leave the thread.
#[inline]
pub fn here() -> &'static ThreadWord {
    let address: *const ThreadWord;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the offset of the variable from the GOT and adds the thread pointer; touches nothing else.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + ramster_thread_word@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) address,
            options(pure, readonly, nostack)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "mrs {0}, tpidr_el0",
            "adrp {1}, :gottprel:ramster_thread_word",
            "ldr {1}, [{1}, :gottprel_lo12:ramster_thread_word]",
            "add {0}, {0}, {1}",
            out(reg) address,
            out(reg) _,
            options(pure, readonly, nostack)
        );
    }
    // SAFETY: the TLS block lives as long as the thread, the words start as zeroes, and the type is not Sync.
    unsafe { &*address }
}

/// While it lives, this thread is inside.
pub struct Inside {
    not_send: std::marker::PhantomData<*const ()>,
}

impl Inside {
    #[inline]
    pub fn enter() -> Self {
        let depth = &here().inside;
        depth.set(depth.get() + 1);
        Inside { not_send: std::marker::PhantomData }
    }

    /// For a thread of ours: from here to its end.
    pub fn for_good() {
        std::mem::forget(Self::enter());
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let depth = &here().inside;
        depth.set(depth.get() - 1);
    }
}

#[inline]
pub fn is_inside() -> bool {
    here().inside.get() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_words_of_its_own() {
        let _outer = Inside::enter();
        {
            let _inner = Inside::enter();
            assert_eq!(here().inside.get(), 2);
        }
        std::thread::spawn(|| {
            assert!(!is_inside());
            here().seat.set(7);
        })
        .join()
        .expect("thread");
        assert!(is_inside());
        assert_eq!(here().seat.get(), 0);
    }
}
