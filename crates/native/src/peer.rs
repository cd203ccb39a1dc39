//! One question to another node, for the node's membership: who answers there, what it offers, and how long that took. No page is asked for or sent.

use pyo3::exceptions::{PyConnectionError, PyConnectionRefusedError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ramster_core::handle::OwnerId;
use ramster_core::wire::message::Role;
use ramster_engine::{CredentialsPem, now_us};
use ramster_peer::client::{Link, LinkError};
use ramster_peer::tls::Secured;

use crate::errors::ConfigError;
use crate::plain::from_dict;

/// The client that asks. It owns no pages; its number only keeps it apart from those that do.
const ASKER: u128 = 0;
/// Nobody listens there: the process is gone, which membership need not wait to believe.
const ECONNREFUSED: i32 = 111;

/// `peer`: the node that must answer; without credentials it may be left open.
#[pyfunction]
#[pyo3(signature = (address, node, deadline_ms, peer = None, credentials = None))]
pub fn ask_peer<'py>(
    py: Python<'py>,
    address: &str,
    node: u64,
    deadline_ms: u64,
    peer: Option<u64>,
    credentials: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyDict>> {
    let address = address.parse().map_err(|_| PyValueError::new_err(format!("{address} is not IP:port")))?;
    let credentials = credentials.map(|dict| from_dict::<CredentialsPem>("credentials", dict)).transpose()?;
    if credentials.is_some() && peer.is_none() {
        return Err(PyValueError::new_err("peer: with credentials, say which node must answer"));
    }
    let asker = OwnerId { node, client: ASKER, incarnation: 0 };
    let (link, took_us) = py.detach(|| {
        let context = credentials.map(|pem| pem.credentials().client_context()).transpose();
        let context = context.map_err(|error| ConfigError::new_err(error.to_string()))?;
        let secured = context.as_ref().zip(peer).map(|(context, node)| Secured { context, node });
        let begun_us = now_us();
        let link = Link::connect_by(secured, &address, &asker, Role::Get, deadline_ms);
        link.map(|link| (link, now_us() - begun_us)).map_err(|error| match &error {
            LinkError::Io(errno) if errno.raw_os_error() == ECONNREFUSED => PyConnectionRefusedError::new_err(error.to_string()),
            _ => PyConnectionError::new_err(error.to_string()),
        })
    })?;
    if let Some(peer) = peer.filter(|peer| *peer != link.holder().node) {
        return Err(PyConnectionError::new_err(format!("node {} answered, not node {peer}", link.holder().node)));
    }
    let answer = PyDict::new(py);
    answer.set_item("node", link.holder().node)?;
    answer.set_item("incarnation", link.holder().incarnation)?;
    answer.set_item("offer_bytes", link.holder_offer_bytes())?;
    answer.set_item("free_bytes", link.holder_free_bytes())?;
    answer.set_item("took_us", took_us)?;
    Ok(answer)
}
