//! From the operations as they were sent to what the engine takes, and back to verdicts in their order.
//!
//! The socket and HTTP share this: each operation is read, measured and authorised on its own, so that
//! one that fails gets its verdict and spoils no other.

use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::plan;
use crate::auth::Permit;
use crate::config::Limits;
use crate::protocol::client::Write;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::json;
use crate::protocol::op::{Op, StoredVerdict};
use crate::protocol::redact;
use crate::store::{Actor, Answer, PendingOp};

/// One request's operations on their way.
#[derive(Debug)]
pub struct Submission {
    /// The operations for the engine.
    pub ops: Vec<PendingOp>,
    /// Their bytes as sent.
    pub bytes: usize,
    /// A place per operation sent.
    places: Vec<Place>,
}

/// Where the verdict of one operation goes.
#[derive(Debug)]
pub enum Place {
    /// It goes no further: this is its verdict.
    Filled(StoredVerdict),
    /// The engine decides. The verdict is stored for everyone; this sender sees it without these fields.
    Decided(Box<[Box<str>]>),
}

impl Submission {
    /// Reads and authorises operations.
    #[must_use]
    pub fn read(permit: &Permit, raws: &[Box<RawValue>], client: &str, limits: &Limits) -> Self {
        let mut submission =
            Self { ops: Vec::new(), bytes: 0, places: Vec::with_capacity(raws.len()) };
        for raw in raws {
            let place = match check(permit, raw, limits) {
                Ok(op) => {
                    let hidden = permit.role().map(|role| role.hidden(&op.entity_type));
                    submission.bytes += raw.get().len();
                    submission.ops.push(PendingOp {
                        payload_hash: hash(&op),
                        op,
                        actor: Actor { user: permit.user().to_string(), client: client.into() },
                        source: None,
                        upsert: false,
                    });
                    Place::Decided(hidden.unwrap_or_default().into())
                }
                Err(verdict) => Place::Filled(verdict),
            };
            submission.places.push(place);
        }
        submission
    }

    /// All verdicts in the order the operations were sent in, with the engine's in their places.
    #[must_use]
    pub fn finish(places: Vec<Place>, decided: Vec<Answer>) -> Vec<StoredVerdict> {
        let mut decided = decided.into_iter().map(Answer::into_verdict);
        let verdicts = places.into_iter().filter_map(|place| match place {
            Place::Filled(verdict) => Some(verdict),
            Place::Decided(hidden) if hidden.is_empty() => decided.next(),
            Place::Decided(hidden) => Some(redact::verdict(decided.next()?, &hidden)),
        });
        verdicts.collect()
    }

    /// Splits what the engine takes from what [`Self::finish`] needs.
    #[must_use]
    pub fn into_parts(self) -> (Vec<PendingOp>, usize, Vec<Place>) {
        (self.ops, self.bytes, self.places)
    }
}

/// SHA-256 of an operation, whatever the white space and order of keys it was sent with.
#[must_use]
pub fn hash(op: &Op) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(op).expect("an operation has string keys")).into()
}

fn check(permit: &Permit, raw: &RawValue, limits: &Limits) -> Result<Op, StoredVerdict> {
    if raw.get().len() > limits.op_bytes {
        return Err(unread(raw, &Refusal::limit("op_bytes", limits.op_bytes as u64)));
    }
    let op = Write::op(raw).map_err(|refusal| unread(raw, &refusal))?;
    permit
        .allows(&op)
        .map_err(|r| plan::rejected(&op.op_id, &op.id, r.code.as_str(), &r.message))?;
    Ok(op)
}

/// The verdict for an operation that could not be read: it names what could be.
fn unread(raw: &RawValue, refusal: &Refusal) -> StoredVerdict {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        op_id: Option<&'a RawValue>,
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    // Only what can be a name is repeated to the sender: a text that every reader takes, and no longer
    // than any valid one.
    let short = |name: Option<&RawValue>| {
        let is_name = |name: &&RawValue| {
            let text = name.get();
            text.starts_with('"') && text.len() <= 600 && json::check(name).is_ok()
        };
        name.filter(is_name).map(RawValue::to_owned)
    };
    let named = serde_json::from_str::<Named<'_>>(raw.get()).ok();
    let (op_id, id) = named.map_or((None, None), |n| (short(n.op_id), short(n.id)));
    let code = match refusal.code {
        ErrorCode::LimitExceeded => "limit_exceeded",
        _ => "bad_request",
    };
    to_raw_value(&serde_json::json!({
        "op_id": op_id, "outcome": "rejected", "id": id, "code": code, "message": refusal.message,
    }))
    .expect("a verdict has string keys")
}
