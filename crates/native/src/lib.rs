//! `ramster._native`: the narrow border between Python, the brain, and Rust, the hands. Covers conversion and errors; every class is a thin leaf over
//! the crate that does the work. Whatever may wait releases the GIL. Its stub is src/ramster/_native.pyi.

mod engine;
mod errors;
mod fork;
mod pager;
mod peer;
mod plain;
mod region;
mod server;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("STAT_FIELDS", PyTuple::new(module.py(), ramster_engine::STAT_FIELDS)?)?;
    let histograms = ramster_engine::HISTOGRAMS.iter().map(|(name, first_us)| (*name, ramster_engine::ends_s(*first_us)));
    module.add("HISTOGRAMS", histograms.collect::<std::collections::BTreeMap<_, _>>())?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<server::Server>()?;
    module.add_class::<region::Region>()?;
    module.add_function(wrap_pyfunction!(pager::pager_start, module)?)?;
    module.add_function(wrap_pyfunction!(pager::pager_running, module)?)?;
    module.add_function(wrap_pyfunction!(pager::pager_stats, module)?)?;
    module.add_function(wrap_pyfunction!(pager::numpy_use, module)?)?;
    module.add_function(wrap_pyfunction!(pager::preload_active, module)?)?;
    module.add_function(wrap_pyfunction!(pager::probe, module)?)?;
    module.add_function(wrap_pyfunction!(peer::ask_peer, module)?)?;
    Ok(())
}
