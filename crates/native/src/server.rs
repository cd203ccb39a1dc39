//! `Server`: holds other clients' pages for the node, in native threads. Covers arguments, figures and its end.

use std::net::SocketAddr;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ramster_core::handle::OwnerId;
use ramster_engine::CredentialsPem;
use ramster_peer::server::{ServerConfig, ServerStats};
use ramster_peer::tls::Credentials;
use ramster_sys::lock::Lock;
use serde_json::json;

use crate::errors::ConfigError;
use crate::plain::{from_dict, to_dict};

#[pyclass(module = "ramster._native", frozen)]
pub struct Server {
    address: SocketAddr,
    incarnation: u64,
    /// None: stopped.
    server: Lock<Option<ramster_peer::server::Server>>,
}

fn socket_address(name: &str, text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{name}: {text:?} is not an address; write IP:port")))
}

fn from_pem(dict: &Bound<'_, PyDict>) -> PyResult<Credentials> {
    from_dict::<CredentialsPem>("credentials", dict).map(|pem| pem.credentials())
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (listen, node, offer_bytes, max_links = 4096, credentials = None))]
    fn new(
        py: Python<'_>,
        listen: &str,
        node: u64,
        offer_bytes: u64,
        max_links: usize,
        credentials: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let listen = socket_address("listen", listen)?;
        let credentials = credentials.map(from_pem).transpose()?;
        let config = ServerConfig { max_links, credentials, ..ServerConfig::new(listen, node, offer_bytes) };
        let incarnation = config.incarnation;
        let server = py.detach(|| ramster_peer::server::Server::start(config)).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => ConfigError::new_err(error.to_string()),
            _ => error.into(),
        })?;
        Ok(Server { address: server.address(), incarnation, server: Lock::new(Some(server)) })
    }

    #[getter]
    fn address(&self) -> String {
        self.address.to_string()
    }

    #[getter]
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.server.lock().as_ref().map(|server| server.stats()));
        let stats = stats.ok_or_else(|| PyValueError::new_err("the server has been stopped"))?;
        to_dict(py, &plain(&stats))
    }

    fn set_offer(&self, py: Python<'_>, offer_bytes: u64) {
        py.detach(|| {
            if let Some(server) = self.server.lock().as_ref() {
                server.set_offer(offer_bytes);
            }
        });
    }

    /// For all links from now on; those that are open go on. Bad ones change nothing.
    fn set_credentials(&self, py: Python<'_>, credentials: &Bound<'_, PyDict>) -> PyResult<()> {
        let credentials = from_pem(credentials)?;
        let set = py.detach(|| self.server.lock().as_ref().map_or(Ok(()), |server| server.set_credentials(&credentials)));
        set.map_err(|error| ConfigError::new_err(error.to_string()))
    }

    /// Certificates of these nodes are no longer good: links of theirs end, and new ones are turned away.
    fn set_revoked(&self, py: Python<'_>, nodes: Vec<u64>) {
        py.detach(|| {
            if let Some(server) = self.server.lock().as_ref() {
                server.set_revoked(&nodes);
            }
        });
    }

    /// Ends every link and frees every page. Stopping again does nothing.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            let server = self.server.lock().take();
            drop(server);
        });
    }
}

fn plain(stats: &ServerStats) -> serde_json::Value {
    let counts = &stats.foreign;
    let clients: Vec<_> = stats
        .clients
        .iter()
        .map(|client| {
            let OwnerId { node, client: name, incarnation } = client.owner;
            json!({
                "node": node,
                "client": format!("{name:032x}"),
                "incarnation": incarnation,
                "links": client.links,
                "pages": client.pages,
                "bytes": client.bytes,
            })
        })
        .collect();
    json!({
        "offer_bytes": stats.offer_bytes,
        "used_bytes": stats.used_bytes,
        "links": stats.links,
        "links_accepted": stats.links_accepted,
        "links_ended": stats.links_ended.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "accepts_paused": stats.accepts_paused,
        "puts_stored": counts.puts_stored,
        "puts_refused_full": counts.puts_refused_full,
        "puts_refused_gone": counts.puts_gone,
        "puts_refused_stale": counts.puts_stale,
        "gets_hit": counts.gets_hit,
        "gets_miss": counts.gets_miss + counts.gets_gone + counts.gets_stale,
        "pages_flushed": counts.pages_flushed,
        "gets_gone": counts.gets_gone,
        "gets_stale": counts.gets_stale,
        "pages_dropped": counts.pages_dropped,
        "accounts_returned": counts.accounts_returned,
        "accounts_expired": counts.accounts_expired,
        "shares": counts.shares,
        "shares_refused": counts.shares_refused,
        "accounts_superseded": counts.accounts_superseded,
        "accounts_refused_older": counts.accounts_refused_older,
        "clients": clients,
    })
}
