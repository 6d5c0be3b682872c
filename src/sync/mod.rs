//! From an operation to a committed change, and from the log back to a reader.
//!
//! [`submission`] reads a request's operations within their [`limits`] and puts them in `order`;
//! `lane` keeps what waits, [`engine`] groups and commits; [`plan`] decides (pure) by the configured [`rules`], [`merge`]
//! a single field, [`notify`] who is to hear of it; [`journal`] keeps a record of each request. [`follow`]
//! keeps this instance's feeds true to the store, [`members`] who is in which project, [`pages`] reads the log
//! for those who catch up, [`delta`] the state for those who were away, [`checksums`] is how they know that
//! they have it. [`retention`] purges what is past its time; `retold` tells what nobody heard of a commit,
//! `tally` counts what happens, [`backlog`] what waits.

pub mod backlog;
pub mod checksums;
pub mod delta;
pub mod engine;
pub mod follow;
pub mod journal;
mod lane;
pub mod limits;
pub mod members;
pub mod merge;
pub mod notify;
mod order;
pub mod pages;
pub mod plan;
pub mod retention;
mod retold;
pub mod rules;
pub mod submission;
mod tally;
