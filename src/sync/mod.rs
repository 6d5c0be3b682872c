//! From an operation to a committed change, and from the log back to a reader.
//!
//! [`plan`] decides (pure) and asks [`notify`] who is to hear of it, [`engine`] queues, groups and
//! commits, [`follow`] keeps this instance's feeds true to the store, [`pages`] reads the log for those who
//! catch up, [`delta`] the state for those who were away, [`checksums`] is how they know that they have it.
//! [`retention`] purges what is past its time.

pub mod checksums;
pub mod delta;
pub mod engine;
pub mod follow;
pub mod notify;
pub mod pages;
pub mod plan;
pub mod retention;
pub mod submission;
