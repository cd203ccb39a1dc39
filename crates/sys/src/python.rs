//! What the Python module needs of CPython's and NumPy's C interfaces: filling a buffer view, and an allocator for arrays (NEP 49).
//! Covers calls and layouts; which memory is handed out is the caller's, through [`ArrayMemory`].

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::lock::Lock;

/// Managed memory as plain functions.
pub struct ArrayMemory {
    /// Zeroed, page aligned. None: there is none left.
    pub map: fn(bytes: usize) -> Option<usize>,
    pub unmap: fn(address: usize, bytes: usize),
    /// Moves if it must; the first `min(old, new)` bytes stay.
    pub remap: fn(address: usize, old_bytes: usize, new_bytes: usize) -> Option<usize>,
    /// Smaller arrays come from libc.
    pub threshold_bytes: usize,
}

/// Answers a request for the buffer of `owner`: `bytes` writable bytes at `address`. 0, or -1 with a Python exception set.
///
/// # Safety
/// `view` and `owner` are what the interpreter passed to the getbuffer slot, the GIL is held, and the memory lives as long as `owner`.
pub unsafe fn fill_buffer(
    view: *mut ffi::Py_buffer,
    owner: *mut ffi::PyObject,
    address: usize,
    bytes: usize,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's promises are those that PyBuffer_FillInfo asks for; it takes a reference to `owner` by itself.
    unsafe { ffi::PyBuffer_FillInfo(view, owner, address as *mut c_void, bytes as ffi::Py_ssize_t, 0, flags) }
}

/// `PyDataMem_Handler` of numpy/ndarraytypes.h, version 1.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

// SAFETY: constant after it is made; the context pointer is null.
unsafe impl Sync for Handler {}

/// Position of PyDataMem_SetHandler in NumPy's C-API table; part of its stable ABI since 1.22.
const SET_HANDLER_INDEX: usize = 304;
const HANDLER_CAPSULE: &CStr = c"mem_handler";

static HANDLER: Handler = Handler {
    name: handler_name(b"ramster"),
    version: 1,
    context: std::ptr::null_mut(),
    malloc: array_malloc,
    calloc: array_calloc,
    realloc: array_realloc,
    free: array_free,
};
static MEMORY: OnceLock<ArrayMemory> = OnceLock::new();
/// Address and length of every array of ours: NumPy's idea of the size at free is not always the one at malloc.
static ARRAYS: OnceLock<Lock<HashMap<usize, usize>>> = OnceLock::new();

const fn handler_name(text: &[u8]) -> [c_char; 127] {
    let mut name = [0; 127];
    let mut index = 0;
    while index < text.len() {
        name[index] = text[index] as c_char;
        index += 1;
    }
    name
}

/// Makes NumPy allocate arrays through `memory` in the current context (thread or task), or by its own default again (`None`).
/// `api` is NumPy's `_ARRAY_API` capsule. False: a Python exception is set.
pub fn use_array_memory(api: &Bound<'_, PyAny>, memory: Option<ArrayMemory>) -> bool {
    // SAFETY: the GIL is held, which `api` proves; a capsule of this module and name holds the C-API table, whose entry 304 has this type in every
    // NumPy since 1.22; the handler capsule's pointer is a static. SetHandler returns a new reference to the handler before, or null.
    unsafe {
        let table = ffi::PyCapsule_GetPointer(api.as_ptr(), std::ptr::null()).cast::<*const c_void>();
        if table.is_null() {
            return false;
        }
        let set_handler: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject =
            std::mem::transmute(*table.add(SET_HANDLER_INDEX));
        let handler = match memory {
            None => std::ptr::null_mut(),
            Some(memory) => {
                MEMORY.get_or_init(|| memory);
                ffi::PyCapsule_New((&raw const HANDLER).cast_mut().cast(), HANDLER_CAPSULE.as_ptr(), None)
            }
        };
        if handler.is_null() && !ffi::PyErr_Occurred().is_null() {
            return false;
        }
        let before = set_handler(handler);
        ffi::Py_XDECREF(handler);
        ffi::Py_XDECREF(before);
        !before.is_null()
    }
}

fn arrays() -> &'static Lock<HashMap<usize, usize>> {
    ARRAYS.get_or_init(|| Lock::new(HashMap::new()))
}

/// A new managed array, if it is large enough to be one and there is memory.
fn map_array(bytes: usize) -> Option<*mut c_void> {
    let memory = MEMORY.get().filter(|memory| bytes >= memory.threshold_bytes)?;
    let address = (memory.map)(bytes)?;
    arrays().lock().insert(address, bytes);
    Some(address as *mut c_void)
}

unsafe extern "C" fn array_malloc(_context: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: malloc takes any size; NumPy asks for at least one byte.
    map_array(bytes).unwrap_or_else(|| unsafe { libc::malloc(bytes) })
}

unsafe extern "C" fn array_calloc(_context: *mut c_void, count: usize, size: usize) -> *mut c_void {
    // SAFETY: calloc checks the product itself; an overflowing one is not ours.
    count.checked_mul(size).and_then(map_array).unwrap_or_else(|| unsafe { libc::calloc(count, size) })
}

unsafe extern "C" fn array_free(_context: *mut c_void, array: *mut c_void, _bytes: usize) {
    let ours = arrays().lock().remove(&(array as usize));
    match (ours, MEMORY.get()) {
        (Some(bytes), Some(memory)) => (memory.unmap)(array as usize, bytes),
        // SAFETY: not in our list, so it came from libc in one of the functions here.
        _ => unsafe { libc::free(array) },
    }
}

unsafe extern "C" fn array_realloc(context: *mut c_void, array: *mut c_void, bytes: usize) -> *mut c_void {
    let ours = arrays().lock().get(&(array as usize)).copied();
    let Some((old_bytes, memory)) = ours.zip(MEMORY.get()) else {
        // SAFETY: `array` is null or libc's. A growing small array stays libc's: it becomes managed when it is next copied.
        return unsafe { libc::realloc(array, bytes) };
    };
    if bytes >= memory.threshold_bytes {
        let Some(moved) = (memory.remap)(array as usize, old_bytes, bytes) else { return std::ptr::null_mut() };
        let mut arrays = arrays().lock();
        arrays.remove(&(array as usize));
        arrays.insert(moved, bytes);
        return moved as *mut c_void;
    }
    // SAFETY: `array` is ours with `old_bytes`, more than the `bytes` that are copied to a fresh block of that size.
    unsafe {
        let small = libc::malloc(bytes.max(1));
        if !small.is_null() {
            std::ptr::copy_nonoverlapping(array.cast::<u8>(), small.cast(), bytes.min(old_bytes));
            array_free(context, array, old_bytes);
        }
        small
    }
}
