//! From an operation to a committed change, and from the log back to a reader.
//!
//! [`plan`] decides (pure), [`engine`] queues, groups and commits, [`follow`] keeps this instance's feeds
//! true to the store, [`pages`] reads the log for those who catch up; `retold`
//! makes up for a commit nobody was told of.

pub mod engine;
pub mod follow;
pub mod pages;
pub mod plan;
mod retold;
pub mod submission;
