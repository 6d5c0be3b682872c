//! From an operation to a committed change, and from the log back to a reader.
//!
//! [`plan`] decides (pure) and asks [`notify`] who is to hear of it, [`engine`] queues, groups and
//! commits, [`follow`] keeps this instance's feeds true to the store, [`members`] who is in which project,
//! [`pages`] reads the log for those who catch up.

pub mod engine;
pub mod follow;
pub mod members;
pub mod notify;
pub mod pages;
pub mod plan;
pub mod submission;
