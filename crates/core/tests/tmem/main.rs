//! tmem's tests: `promises` and `copies` are the histories we thought of, `model` the others.

mod bare;
mod copies;
mod model;
mod promises;
mod world;
