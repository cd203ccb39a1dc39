//! Step 8: the wire over TCP. The client's links to its holders, and the server that holds pages for others. What the bytes mean is `core::wire`,
//! how pages are kept is `core::foreign`. With credentials every link is TLS 1.3 with certificates on both sides.

pub mod client;
pub mod server;
mod socket;
pub mod tls;
mod transport;
