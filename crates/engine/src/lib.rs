//! ramster-engine
