//! ramster-preload
