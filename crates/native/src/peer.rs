//! One question to another node, for the node's membership: who answers there, and what it offers. No page is asked for or sent.

use pyo3::exceptions::{PyConnectionError, PyConnectionRefusedError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ramster_core::handle::OwnerId;
use ramster_core::wire::message::Role;
use ramster_peer::client::{Link, LinkError};

/// The client that asks. It owns no pages; its number only keeps it apart from those that do.
const ASKER: u128 = 0;
/// Nobody listens there: the process is gone, which membership need not wait to believe.
const ECONNREFUSED: i32 = 111;

#[pyfunction]
pub fn ask_peer<'py>(py: Python<'py>, address: &str, node: u64, deadline_ms: u64) -> PyResult<Bound<'py, PyDict>> {
    let address = address.parse().map_err(|_| PyValueError::new_err(format!("{address} is not IP:port")))?;
    let asker = OwnerId { node, client: ASKER, incarnation: 0 };
    let link = py.detach(|| Link::connect(&address, &asker, Role::Get, deadline_ms)).map_err(|error| match &error {
        LinkError::Io(errno) if errno.raw_os_error() == ECONNREFUSED => PyConnectionRefusedError::new_err(error.to_string()),
        _ => PyConnectionError::new_err(error.to_string()),
    })?;
    let answer = PyDict::new(py);
    answer.set_item("node", link.holder().node)?;
    answer.set_item("incarnation", link.holder().incarnation)?;
    answer.set_item("offer_bytes", link.holder_offer_bytes())?;
    answer.set_item("free_bytes", link.holder_free_bytes())?;
    Ok(answer)
}
