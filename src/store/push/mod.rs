//! Pushes: what becomes of an armed one, from a person to their devices to a provider's receipt.
//!
//! They are armed by [`Store::commit`](super::Store::commit), in the transaction of the change they are
//! about. [`dispatch`](super::Store::dispatch) turns what is due into one delivery per device;
//! `deliver` gives deliveries to one worker at a time, under a lease and a fence, within the rate all
//! instances share ([`Gate`]); `content` is what they tell of then; `receipts` asks what became of them, `cancel` ends what nobody has to be told any more,
//! `tend` looks after what is left. All times are the database's.

#[macro_use]
mod aftermath;
#[macro_use]
mod view;
mod acks;
pub(in crate::store) mod cancel;
mod content;
mod deliver;
mod devices;
mod dispatch;
mod gate;
mod inbox;
mod live;
mod nid;
mod receipts;
mod recent;
mod stats;
mod tend;

pub use acks::Ack;
pub use cancel::Canceled;
pub use content::{Content, Cursor, Member, Unread};
pub use deliver::{AMBIGUOUS, Claimed, NO_ACCESS, Renewed, Report, Settled, Settlement};
pub use devices::{Device, Registration};
pub use dispatch::{Decided, NewDelivery};
pub use gate::{Gate, GateSettings, Outcome, receipts_gate};
pub use inbox::{InboxQuery, InboxRow, Reads};
pub(in crate::store) use nid::nid;
pub use receipts::{Awaiting, ReceiptVerdict};
pub use recent::Recent;
pub use stats::{QueueLine, Stat};
pub use tend::{NoRetry, Reaped};
pub use view::{Due, View};

/// The position of what is about no change: no acknowledgement disarms it.
pub const NO_CHANGE: i64 = i64::MAX;
