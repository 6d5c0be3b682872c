//! The integration tests: one binary, a file per topic.

#![allow(clippy::unwrap_used)]

mod bus;
mod instances;
mod no_hole;
mod presence;
mod quota;
mod rolling;
mod rooms;
mod store;
mod support;
