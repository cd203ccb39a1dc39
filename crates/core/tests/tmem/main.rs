//! tmem's tests: `promises` are the histories we thought of, `model` the others.

mod model;
mod promises;
mod world;
