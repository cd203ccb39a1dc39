//! Plain data across the border: dicts to options and directives, snapshots to dicts. By way of JSON, since it happens a few times a second at most
//! and names the key that is wrong.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::ConfigError;

/// `what` names the dict in the error: "options", "directives".
pub fn from_dict<T: DeserializeOwned>(what: &str, dict: &Bound<'_, PyDict>) -> PyResult<T> {
    from_plain(what, dict.as_any())
}

/// The same of a word or whatever else JSON has.
pub fn from_plain<T: DeserializeOwned>(what: &str, plain: &Bound<'_, PyAny>) -> PyResult<T> {
    let text: String = plain.py().import("json")?.call_method1("dumps", (plain,))?.extract()?;
    serde_json::from_str(&text).map_err(|error| ConfigError::new_err(format!("{what}: {error}")))
}

pub fn to_dict<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyDict>> {
    let text = serde_json::to_string(value).map_err(|error| ConfigError::new_err(error.to_string()))?;
    Ok(py.import("json")?.call_method1("loads", (text,))?.cast_into::<PyDict>()?)
}
