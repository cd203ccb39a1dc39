//! Each race of the pager, forced: a page is stopped at a point of its journey while the test does to it what must not hurt, and every byte is compared.
//! There is one pager a process, so every test runs in a process of its own. Over many rounds with no stops: tests/soak.
//!
//! cargo test -p ramster-pager --features seams --test races

mod disk;
mod forks;
mod local;
mod remote;
mod stage;
mod wire;
