//! Start: reads `RAMSTER_OPTIONS` before the program's own code runs and starts the pager. Without that variable every call passes through. A bad
//! value or a pager that cannot start ends the process with one line and exit code 1: a program that was to be bounded must not run unbounded.
#![allow(unsafe_code)] // the attribute of the constructor, nothing else

use std::ops::Range;
use std::sync::OnceLock;

use ramster_engine::Options;
use ramster_pager::Pager;
use ramster_sys::say::say;
use ramster_sys::thread_word::{self, Inside};
use ramster_sys::{next, small_blocks};
use rustix::io::Errno;

use crate::{big, fork, quiesce};

pub const OPTIONS_VARIABLE: &str = "RAMSTER_OPTIONS";

/// Everything that the exported functions look at. Set once, before the program's threads exist.
pub struct State {
    pub pager: &'static Pager,
    pub arena: Range<usize>,
    /// Mappings from this size on are managed.
    pub threshold_bytes: usize,
    /// Small blocks come from mimalloc and are managed; otherwise they are libc's.
    pub small: bool,
    /// Freed big blocks that may lie idle, in all.
    pub spare_limit_bytes: usize,
    linker: Range<usize>,
}

static STATE: OnceLock<State> = OnceLock::new();

/// The started library, whoever asks: for calls that name memory by its address.
#[inline]
pub fn started() -> Option<&'static State> {
    STATE.get()
}

/// The started library, if this thread's new memory may be managed.
#[inline]
pub fn for_new_memory() -> Option<&'static State> {
    STATE.get().filter(|_| !thread_word::is_inside())
}

/// The same for malloc. The linker is told by its return address before the thread word is read or anything else happens.
#[inline]
pub fn for_new_block(caller: usize) -> Option<&'static State> {
    STATE.get().filter(|state| !state.linker.contains(&caller) && !thread_word::is_inside())
}

/// Runs `work` inside, with every signal blocked: a handler that maps memory would find the pager's locks held by its own thread. errno stays as it was
/// when the work succeeds and says why when it fails.
pub fn with_pager<T>(state: &State, work: impl FnOnce(&'static Pager) -> Result<T, Errno>) -> Option<T> {
    let before = next::errno();
    let mask = next::SignalMask::block_all();
    let result = {
        let _inside = Inside::enter();
        work(state.pager)
    };
    mask.restore();
    match result {
        Ok(value) => {
            next::set_errno(before);
            Some(value)
        }
        Err(error) => {
            next::set_errno(error.raw_os_error());
            None
        }
    }
}

extern "C" fn start() {
    let _inside = Inside::enter();
    next::find();
    let Some(text) = std::env::var_os(OPTIONS_VARIABLE) else { return };
    let started = text
        .to_str()
        .ok_or_else(|| "not UTF-8".to_owned())
        .and_then(|text| serde_json::from_str::<Options>(text).map_err(|error| error.to_string()))
        .map_err(|error| format!("{OPTIONS_VARIABLE}: {error}"))
        .and_then(|options| start_with(&options));
    if let Err(error) = started {
        say(format_args!("{error}"));
        next::exit_now(1);
    }
}

fn start_with(options: &Options) -> Result<(), String> {
    let small = match options.malloc.as_str() {
        "auto" => true,
        "system" => false,
        other => return Err(format!("{OPTIONS_VARIABLE}: malloc is \"{other}\"; it must be \"auto\" or \"system\"")),
    };
    if small {
        small_blocks::set_up();
        quiesce::set_up();
    }
    let pager = Pager::start(options).map_err(|error| error.to_string())?;
    if !fork::set_up() {
        return Err("libc takes no more fork handlers".to_owned());
    }
    let threshold_bytes = usize::try_from(options.threshold_bytes).unwrap_or(usize::MAX);
    STATE.get_or_init(|| State {
        pager,
        arena: pager.arena(),
        threshold_bytes,
        small,
        spare_limit_bytes: big::spare_limit(options.local_bytes),
        linker: next::linker_range(),
    });
    Ok(())
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
