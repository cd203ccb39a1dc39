//! ramster-peer
