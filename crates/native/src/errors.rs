//! Rust outcomes to the exceptions of `ramster.errors`. Covers the one place where the two meet.

use pyo3::import_exception;
use pyo3::prelude::*;
use ramster_core::backend::{Loss, Lost};

import_exception!(ramster.errors, ConfigError);
import_exception!(ramster.errors, LostError);
import_exception!(ramster.errors, PrivilegeError);
import_exception!(ramster.errors, StartError);

pub fn lost(lost: &Lost) -> PyErr {
    let why = match lost.why {
        Loss::HolderDied => "its holder died",
        Loss::HolderForgot => "its holder no longer has it",
        Loss::Corrupt => "its bytes are damaged",
        Loss::Deadline => "its holder did not answer in time",
        Loss::SpillFailed => "the spill file cannot be read",
    };
    let handle = &lost.handle;
    LostError::new_err(format!("page {} of object {:x?} in pool {} is lost: {why}", handle.index, handle.object.0, handle.pool.0))
}
