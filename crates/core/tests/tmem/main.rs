//! tmem's tests: `promises`, `copies` and `shards` are the histories we thought of, `model` the others.

mod bare;
mod classes;
mod copies;
mod model;
mod pieces;
mod promises;
mod shards;
mod world;
