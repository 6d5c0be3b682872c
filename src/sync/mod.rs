//! From an operation to a committed change, and from the log back to a reader.
//!
//! [`submission`] reads a request's operations within their [`limits`] and puts them in [`order`];
//! [`engine`] queues, groups and commits; [`plan`] decides (pure) by the configured [`rules`], [`merge`]
//! a single field, [`notify`] who is to hear of it. [`follow`] keeps this instance's feeds true to the
//! store, [`pages`] reads the log for those who catch up, [`delta`] the state for those who were away,
//! [`checksums`] is how they know that they have it. [`retention`] purges what is past its time; `retold`
//! makes up for a commit nobody was told of.

pub mod checksums;
pub mod delta;
pub mod engine;
pub mod follow;
pub mod limits;
pub mod merge;
pub mod notify;
mod order;
pub mod pages;
pub mod plan;
pub mod retention;
mod retold;
pub mod rules;
pub mod submission;
