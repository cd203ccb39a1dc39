//! Plain data across the border: dicts to options and directives, snapshots to dicts. By way of JSON, since it happens a few times a second at most
//! and names the key that is wrong.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::ConfigError;

/// `what` names the dict in the error: "options", "directives".
pub fn from_dict<T: DeserializeOwned>(what: &str, dict: &Bound<'_, PyDict>) -> PyResult<T> {
    let text: String = dict.py().import("json")?.call_method1("dumps", (dict,))?.extract()?;
    serde_json::from_str(&text).map_err(|error| ConfigError::new_err(format!("{what}: {error}")))
}

pub fn to_dict<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyDict>> {
    let text = serde_json::to_string(value).map_err(|error| ConfigError::new_err(error.to_string()))?;
    Ok(py.import("json")?.call_method1("loads", (text,))?.cast_into::<PyDict>()?)
}
