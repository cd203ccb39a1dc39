//! ramster-native
