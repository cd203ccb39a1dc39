//! The pager of this process from Python: start, statistics, NumPy's allocations. Covers conversion; under `ramster run` the pager is the preload
//! library's, and this module only reads its figures.

use std::sync::OnceLock;

use crate::fork;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ramster_engine::{Options, STAT_FIELDS};
use ramster_pager::Pager;
use ramster_sys::python::{ArrayMemory, use_array_memory};
use serde_json::json;

use crate::errors::{PrivilegeError, StartError};
use crate::plain::{from_dict, to_dict};

/// PROT_READ | PROT_WRITE.
pub const READ_WRITE: i32 = 3;

static THRESHOLD_BYTES: OnceLock<usize> = OnceLock::new();

pub fn pager() -> Option<&'static Pager> {
    Pager::get()
}

#[pyfunction]
pub fn pager_start(py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<()> {
    let options: Options = from_dict("options", options)?;
    py.detach(|| {
        if !fork::set_up() {
            return Err(StartError::new_err("libc takes no more fork handlers"));
        }
        match Pager::start(&options) {
            Ok(_) => {
                THRESHOLD_BYTES.get_or_init(|| options.threshold_bytes as usize);
                Ok(())
            }
            Err(error) => Err(match ramster_pager::probe().userfaultfd {
                Ok(_) => StartError::new_err(error.to_string()),
                Err(why) => PrivilegeError::new_err(why),
            }),
        }
    })
}

#[pyfunction]
pub fn pager_running() -> bool {
    pager().is_some()
}

#[pyfunction]
pub fn preload_active() -> bool {
    ramster_sys::preloaded::is_active()
}

#[pyfunction]
pub fn pager_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let stats = PyDict::new(py);
    if let Some(pager) = pager() {
        for (name, value) in pager.engine().stats().read() {
            stats.set_item(name, value)?;
        }
    } else {
        let mut values = vec![0; STAT_FIELDS.len()];
        if !ramster_sys::preloaded::read_stats(&mut values) {
            return Err(PyRuntimeError::new_err("the pager has not been started"));
        }
        for (name, value) in STAT_FIELDS.iter().zip(values) {
            stats.set_item(name, value)?;
        }
    }
    Ok(stats)
}

#[pyfunction]
pub fn numpy_use(py: Python<'_>, on: bool) -> PyResult<()> {
    let memory = match (on, THRESHOLD_BYTES.get()) {
        (false, _) => None,
        (true, Some(threshold_bytes)) => Some(ArrayMemory { map, unmap, remap, threshold_bytes: *threshold_bytes }),
        (true, None) => return Err(PyRuntimeError::new_err("the pager has not been started")),
    };
    // NumPy 2 moved its core; both names are the same module to the C interface.
    let core = py.import("numpy._core._multiarray_umath").or_else(|_| py.import("numpy.core._multiarray_umath"))?;
    let api = core.getattr("_ARRAY_API")?;
    if use_array_memory(&api, memory) { Ok(()) } else { Err(PyErr::fetch(py)) }
}

/// `userfaultfd` is `{"Ok": how}` or `{"Err": why not, with the cure}`.
#[pyfunction]
pub fn probe(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = py.detach(ramster_pager::probe);
    let plain = json!({
        "kernel": found.kernel,
        "userfaultfd": found.userfaultfd,
        "has_move": found.has_move,
        "has_poison": found.has_poison,
        "has_write_protect": found.has_write_protect,
        "has_pagemap_scan": found.has_pagemap_scan,
        "halt_poll_ns": found.halt_poll_ns,
    });
    to_dict(py, &plain)
}

fn map(bytes: usize) -> Option<usize> {
    pager()?.map(bytes, READ_WRITE, None).ok()
}

fn unmap(address: usize, bytes: usize) {
    if let Some(pager) = pager() {
        // Cannot fail: NumPy frees what `map` gave it, once.
        let _ = pager.unmap(address, bytes);
    }
}

fn remap(address: usize, old_bytes: usize, new_bytes: usize) -> Option<usize> {
    pager()?.remap(address, old_bytes, new_bytes, true, None).ok()
}
