//! The integration tests: one binary, a file per topic.

#![allow(clippy::unwrap_used)]

mod architecture;
mod bus;
mod ingest;
mod presence;
mod quota;
mod rooms;
mod store;
mod support;
