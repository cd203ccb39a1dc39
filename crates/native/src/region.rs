//! `Region`: managed memory as an object with the buffer protocol, the base of `ramster.empty`. Covers its life: given back when the object dies,
//! which is when the last array or view on it has died.

use std::ffi::c_int;

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::ffi::Py_buffer;
use pyo3::prelude::*;

use crate::pager::{READ_WRITE, pager};

#[pyclass(module = "ramster._native", frozen)]
pub struct Region {
    address: usize,
    bytes: usize,
}

#[pymethods]
impl Region {
    #[new]
    fn new(py: Python<'_>, nbytes: usize) -> PyResult<Self> {
        let pager = pager().ok_or_else(|| PyRuntimeError::new_err("the pager has not been started"))?;
        if nbytes == 0 || nbytes > isize::MAX as usize {
            return Err(PyValueError::new_err(format!("nbytes: {nbytes} is out of range; use 1 to {}", isize::MAX)));
        }
        let mapped = py.detach(|| pager.map(nbytes, READ_WRITE, None));
        let address = mapped.map_err(|error| PyMemoryError::new_err(format!("{nbytes} bytes of managed memory: {error}")))?;
        Ok(Region { address, bytes: nbytes })
    }

    fn __len__(&self) -> usize {
        self.bytes
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.bytes
    }

    // PyO3 wants the slot declared like this; what is unsafe about it is in `sys`.
    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut Py_buffer, flags: c_int) -> PyResult<()> {
        let (address, bytes) = (slf.get().address, slf.get().bytes);
        // SAFETY: called by the interpreter with its own view; the memory is unmapped by `drop`, after the last view.
        match unsafe { ramster_sys::python::fill_buffer(view, slf.as_ptr(), address, bytes, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(pager) = pager() {
            // Cannot fail: the range was mapped whole by `new`, and nobody else unmaps it.
            let _ = pager.unmap(self.address, self.bytes);
        }
    }
}
