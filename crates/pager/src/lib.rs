//! ramster-pager
