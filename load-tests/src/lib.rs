//! What the two binaries share: framing, text scanning and the limit on open files.
//!
//! Nothing here comes from the hub's own code: a fault in its framing must not hide in the tool that
//! measures it.

pub mod files;
pub mod scan;
pub mod wire;
