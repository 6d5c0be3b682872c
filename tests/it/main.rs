//! The integration tests: one binary, a file per topic.

#![allow(clippy::unwrap_used)]

mod bus;
mod poison;
mod presence;
mod quota;
mod rooms;
mod store;
mod support;
