//! The scenarios: each reads its options, drives the pool and returns the fields of its JSON line.

pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod ping;
pub(crate) mod presence;
pub(crate) mod stalled;
pub(crate) mod storm;
pub(crate) mod writes;
