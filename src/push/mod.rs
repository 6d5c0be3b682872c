//! From an armed intent to a person: an acknowledgement disarms it, its due time makes it a push.
//!
//! [`Acks`] gathers what clients have stored and tells the store, which cancels the intents those
//! acknowledgements answer; [`worker`] takes the intents that come due. The intents themselves are armed
//! in the transaction of the change; nothing here is called by the engine.

mod acks;
pub mod worker;

pub use acks::Acks;
