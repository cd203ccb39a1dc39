//! ramster-sys
