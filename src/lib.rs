//! Syncline: a self-hosted realtime sync hub.
//!
//! The module list reads as the data flow; `docs/ARCHITECTURE.md` tells the story.

pub mod config;
pub mod id;
pub mod protocol;
pub mod store;
