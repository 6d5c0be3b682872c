//! From the operations as they were sent to what the engine takes, and back to verdicts in their order.
//!
//! The socket and HTTP share this: each operation is read, measured and authorised on its own, so that
//! one that fails gets its verdict and spoils no other. What can be read but is refused goes on to the
//! engine all the same, so that the refusal is kept like every other verdict.

use std::collections::HashMap;

use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::limits;
use super::order;
use super::plan;
use super::rules::Rules;
use crate::auth::Permit;
use crate::config::Limits;
use crate::id::{EntityRef, EntityType, LocalId};
use crate::protocol::checksum;
use crate::protocol::client::Write;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::json;
use crate::protocol::op::{Op, OpKind, Outcome, StoredVerdict};
use crate::protocol::redact;
use crate::store::{Access, Actor, Answer, LaneOp, PendingOp, Refused};

/// One request, as far as it concerns its operations.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// The operations' texts.
    pub raws: &'a [Box<RawValue>],
    /// The installation they come from.
    pub client: &'a str,
    /// By how much its clock is behind the hub's, in milliseconds, as far as known.
    pub clock_offset: i64,
}

/// One request's operations on their way.
#[derive(Debug)]
pub struct Submission {
    /// The operations for the engine, in the order they are to be decided.
    pub ops: Vec<PendingOp>,
    /// Their bytes as sent.
    pub bytes: usize,
    /// Where the answers to them belong.
    pub places: Places,
}

/// A place per operation sent; filled already where it goes no further.
#[derive(Debug)]
pub struct Places {
    verdicts: Vec<Option<StoredVerdict>>,
    /// For each of the engine's operations, its place and what its sender sees of the verdict.
    order: Vec<(usize, Sight)>,
}

/// What a sender may see of a verdict that is stored for whoever they were when it was given.
#[derive(Debug)]
enum Sight {
    Whole,
    Without(Vec<Box<str>>),
    /// The type of the entity is not read.
    Nothing,
}

impl Sight {
    fn of(self, verdict: StoredVerdict) -> StoredVerdict {
        match self {
            Self::Whole => verdict,
            Self::Without(hidden) => redact::verdict(verdict, &hidden),
            Self::Nothing => redact::blind(verdict),
        }
    }
}

impl Places {
    /// How many operations go no further.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.verdicts.iter().flatten().count()
    }

    /// All verdicts in the order the operations were sent in.
    #[must_use]
    pub fn fill(self, decided: Vec<Answer>) -> Vec<StoredVerdict> {
        let Self { mut verdicts, order } = self;
        for ((place, sight), answer) in order.into_iter().zip(decided) {
            verdicts[place] = Some(sight.of(answer.into_verdict()));
        }
        verdicts.into_iter().flatten().collect()
    }
}

/// An operation, or the verdict of one that goes no further and the group it spoils.
type ReadOp = Result<PendingOp, (StoredVerdict, Option<String>)>;

impl Submission {
    /// Reads and authorises operations.
    #[must_use]
    pub fn read(permit: &Permit, sent: Sent<'_>, limits: &Limits, rules: &Rules) -> Self {
        let reader = Reader { permit, sent, limits, rules };
        let mut read: Vec<ReadOp> = sent.raws.iter().map(|raw| reader.op(raw)).collect();
        join_groups(&mut read, limits);
        let bytes = sent.raws.iter().map(|raw| raw.get().len()).sum();
        let (mut ops, mut places, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
        for (place, read) in read.into_iter().enumerate() {
            verdicts.push(match read {
                Ok(op) => {
                    ops.push(op);
                    places.push(place);
                    None
                }
                Err((verdict, _)) => Some(verdict),
            });
        }
        let (ops, order) = order::by_priority(ops, places);
        let sights = ops.iter().map(|op| sight(permit, op));
        let order = order.into_iter().zip(sights).collect();
        Self { ops, bytes, places: Places { verdicts, order } }
    }

    /// Authorises operations of the failed lane, to be decided anew: as they were sent, what is there of a group
    /// together, under the limits and the role of now. One that is not in the lane keeps its verdict.
    #[must_use]
    pub fn again(permit: &Permit, failed: &[LaneOp], limits: &Limits, rules: &Rules) -> Self {
        let (mut read, mut bytes) = (Vec::with_capacity(failed.len()), 0);
        for failed in failed {
            let op = failed.op.as_ref().filter(|_| failed.outcome == Outcome::Rejected);
            let Some(raw) = op else {
                read.push(Err((redact::blind(failed.verdict.clone()), None)));
                continue;
            };
            let sent = Sent { raws: &[], client: &failed.client, clock_offset: 0 };
            read.push((Reader { permit, sent, limits, rules }).again(raw, failed));
            bytes += raw.get().len();
        }
        let mut start = 0;
        let of_one = |(a, i): &(&LaneOp, Option<String>), (b, j): &(&LaneOp, Option<String>)| {
            i.is_some() && i == j && sent_together(a, b)
        };
        let sent: Vec<_> = failed.iter().zip(read.iter().map(group_of)).collect();
        for run in sent.chunk_by(of_one) {
            join(&mut read[start..start + run.len()]);
            start += run.len();
        }
        let (mut ops, mut order, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
        for (place, read) in read.into_iter().enumerate() {
            verdicts.push(match read {
                Ok(op) => {
                    order.push((place, sight(permit, &op)));
                    ops.push(op);
                    None
                }
                Err((verdict, _)) => Some(verdict),
            });
        }
        Self { ops, bytes, places: Places { verdicts, order } }
    }
}

/// Whether two operations of the lane can be of one request: another request may use the same names for its groups.
fn sent_together(a: &LaneOp, b: &LaneOp) -> bool {
    a.client == b.client && a.place.commit() == b.place.commit()
}

/// How many operations of the lane can be decided anew at once if more follow: not a group without its end.
#[must_use]
pub fn whole_groups(failed: &[LaneOp]) -> usize {
    let group = |failed: &LaneOp| Write::op(failed.op.as_deref()?).ok()?.group;
    let Some(last) = failed.last() else { return 0 };
    let Some(open) = group(last) else { return failed.len() };
    let of_it = |op: &&LaneOp| sent_together(op, last) && group(op).as_ref() == Some(&open);
    let members = failed.iter().rev().take_while(of_it).count();
    // One that fills a whole page has no place to be put off to.
    if members == failed.len() { members } else { failed.len() - members }
}

fn sight(permit: &Permit, op: &PendingOp) -> Sight {
    let reads = permit.role().is_some_and(|role| role.can_read(&op.op.entity_type));
    match &op.access.hidden {
        _ if !reads => Sight::Nothing,
        none if none.is_empty() => Sight::Whole,
        hidden => Sight::Without(hidden.clone()),
    }
}

/// Ties the operations of each group together. A group that cannot take effect as a whole, or stands in
/// several places, is refused as a whole, for now: the same operations may come again.
fn join_groups(read: &mut [ReadOp], limits: &Limits) {
    let groups: Vec<Option<String>> = read.iter().map(group_of).collect();
    let mut runs: HashMap<&str, usize> = HashMap::new();
    for run in groups.chunk_by(|a, b| a == b) {
        run[0].iter().for_each(|group| *runs.entry(group).or_default() += 1);
    }
    let mut start = 0;
    for run in groups.chunk_by(|a, b| a == b) {
        let members = &mut read[start..start + run.len()];
        start += run.len();
        let Some(group) = &run[0] else { continue };
        if runs[group.as_str()] > 1 {
            let message = "the operations of a group must stand next to each other";
            refuse_all(members, "group_split", message);
        } else if run.len() > limits.ops_per_group {
            let refusal = Refusal::limit("ops_per_group", limits.ops_per_group as u64);
            refuse_all(members, refusal.code.as_str(), &refusal.message);
        } else {
            join(members);
        }
    }
}

fn group_of(read: &ReadOp) -> Option<String> {
    match read {
        Ok(op) => op.op.group.clone(),
        Err((_, group)) => group.clone(),
    }
}

/// Ties operations together, or refuses all of them if one cannot be read.
fn join(members: &mut [ReadOp]) {
    if members.iter().any(Result::is_err) {
        let message = "another operation of its group could not be read; none of them took effect";
        refuse_all(members, "group_failed", message);
    } else {
        members[1..].iter_mut().flatten().for_each(|op| op.joined = true);
    }
}

fn refuse_all(members: &mut [ReadOp], code: &str, message: &str) {
    for member in members {
        if let Ok(op) = member {
            *member = Err((plan::rejected(&op.op, code, message), None));
        }
    }
}

/// SHA-256 of an operation, whatever the white space and order of keys it was sent with.
#[must_use]
pub fn hash(op: &Op) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(op).expect("an operation has string keys")).into()
}

/// Reads the operations of one request.
struct Reader<'a> {
    permit: &'a Permit,
    sent: Sent<'a>,
    limits: &'a Limits,
    rules: &'a Rules,
}

impl Reader<'_> {
    fn op(&self, raw: &RawValue) -> ReadOp {
        let max = self.limits.op_bytes;
        if raw.get().len() > max {
            return Err(unread(raw, &Refusal::limit("op_bytes", max as u64)));
        }
        let op = Write::op(raw).map_err(|refusal| unread(raw, &refusal))?;
        if checksum::of_op(raw.get()) == Some(false) {
            let message = "the operation arrived changed; send it again";
            let verdict = plan::rejected(&op, "checksum_mismatch", message);
            return Err((verdict, op.group));
        }
        let payload_hash = hash(&op);
        let refused = self.check(&op).err();
        Ok(PendingOp {
            edited_at: op.edited_at.map(|at| at.saturating_add(self.sent.clock_offset)),
            ..self.pending(op, payload_hash, refused)
        })
    }

    /// An operation of the failed lane. It was read once, so only a newer hub's or a lower limit stops it.
    fn again(&self, raw: &RawValue, failed: &LaneOp) -> ReadOp {
        let op = Write::op(raw).map_err(|refusal| unread(raw, &refusal))?;
        let max = self.limits.op_bytes;
        let long = (raw.get().len() > max).then(|| Refusal::limit("op_bytes", max as u64));
        let refused = long.or_else(|| self.check(&op).err());
        Ok(PendingOp {
            edited_at: failed.edited_at.or(op.edited_at),
            retry: true,
            ..self.pending(op, failed.payload_hash, refused)
        })
    }

    fn pending(&self, op: Op, payload_hash: [u8; 32], refused: Option<Refusal>) -> PendingOp {
        let (user, client) = (self.permit.user().to_string(), self.sent.client.to_owned());
        let actor = Actor { user, client };
        let refused = refused
            .map(|refusal| Refused { code: refusal.code.as_str(), message: refusal.message });
        PendingOp {
            locals: locals(&op, self.rules),
            access: self.access(&op.entity_type),
            refused,
            ..PendingOp::new(op, actor, payload_hash)
        }
    }

    fn check(&self, op: &Op) -> Result<(), Refusal> {
        limits::check(op, self.limits)?;
        if op.kind == OpKind::Resolve {
            let needed = op.conflict.is_some() && op.expected_version.is_some();
            if !needed || (op.choose.is_none() && op.fields.is_empty()) {
                let message =
                    "a resolve needs `conflict`, `expected_version`, and `choose` or `fields`";
                return Err(Refusal::new(ErrorCode::BadRequest, message));
            }
        }
        self.permit.allows(op)
    }

    fn access(&self, kind: &EntityType) -> Access {
        self.permit.role().map_or_else(Access::default, |role| Access {
            role: role.name.as_str().into(),
            hidden: role.hidden(kind).to_vec(),
            no_delete: !role.can_delete(kind),
        })
    }
}

/// The local ids in an operation.
fn locals(op: &Op, rules: &Rules) -> Vec<(EntityType, LocalId)> {
    let mut locals = Vec::new();
    if let EntityRef::Local(id) = &op.id {
        locals.push((op.entity_type.clone(), id.clone()));
    }
    for (field, kind) in rules.references(&op.entity_type) {
        for value in [op.fields.get(field), op.was.get(field)].into_iter().flatten() {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let ids = values.iter().filter_map(plan::local_id);
            locals.extend(ids.map(|id| (kind.clone(), id)));
        }
    }
    locals
}

/// The verdict for an operation that could not be read: it names what could be.
fn unread(raw: &RawValue, refusal: &Refusal) -> (StoredVerdict, Option<String>) {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        op_id: Option<&'a RawValue>,
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        group: Option<&'a RawValue>,
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
    let (op_id, id, group) =
        named.map_or((None, None, None), |n| (short(n.op_id), short(n.id), short(n.group)));
    let verdict = to_raw_value(&serde_json::json!({
        "op_id": op_id, "outcome": "rejected", "id": id,
        "code": refusal.code.as_str(), "message": refusal.message,
    }))
    .expect("a verdict has string keys");
    (verdict, group.and_then(|group| serde_json::from_str(group.get()).ok()))
}
