//! Step 8: the wire over TCP. The client's links to its holders, and the server that holds pages for others. What the bytes mean is `core::wire`,
//! how pages are kept is `core::foreign`.

pub mod client;
pub mod server;
mod socket;
