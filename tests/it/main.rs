//! The integration tests: one binary, a file per topic.

#![allow(clippy::unwrap_used)]

mod architecture;
mod backends;
mod bounded;
mod bus;
mod changes;
mod commands;
mod connections;
mod convergence;
mod edge;
mod exactly_once;
mod fuzz_corpus;
mod http;
mod ingest;
mod instances;
mod isolation;
mod lane;
mod members;
mod no_hole;
mod operators;
mod pages;
mod poison;
mod policies;
mod presence;
mod presence_rooms;
mod protocol;
mod push;
mod quota;
mod rolling;
mod rooms;
mod secrecy;
mod sessions;
mod store;
mod support;
mod unfollowed;
mod untold;
mod writes;
