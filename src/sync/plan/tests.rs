use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::*;
use crate::config::{self, Config};
use crate::id::{EntityType, Epoch};
use crate::protocol::conflict::{ConflictKind, ConflictState, Merge, Strategy};
use crate::store::{Actor, SourceVersion};

fn pending(client: &str, op: &Value) -> PendingOp {
    let hash = Sha256::digest(op.to_string()).into();
    let actor = Actor { user: format!("user of {client}"), client: client.into() };
    let mut pending = PendingOp::new(serde_json::from_value(op.clone()).unwrap(), actor, hash);
    let task = EntityType::new("task").unwrap();
    let parent = pending.op.fields.get("parent").and_then(local_id);
    let own = match &pending.op.id {
        EntityRef::Local(id) => Some(id.clone()),
        EntityRef::Id(_) => None,
    };
    pending.locals = own.into_iter().chain(parent).map(|id| (task.clone(), id)).collect();
    pending
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better with `json!` in place")]
fn op(id: &str, kind: &str, base: u64, fields: Value) -> Value {
    json!({"op_id": id, "kind": kind, "type": "task", "id": "t1", "base": base, "fields": fields})
}

fn with(mut op: Value, key: &str, value: impl Into<Value>) -> Value {
    op[key] = value.into();
    op
}

fn event(id: &str, kind: &str, version: Option<i64>, fields: Value) -> PendingOp {
    PendingOp {
        upsert: true,
        source: version.map(|version| SourceVersion { source: "erp".into(), version }),
        ..pending("source:erp", &op(id, kind, 0, fields))
    }
}

/// The rules of a `task` with a strategy, a counter `n`, a set `tags`, a manual field and a reference.
fn rules(strategy: Strategy) -> Rules {
    let field = |strategy, merge, references: Option<&str>| config::Field {
        strategy,
        merge,
        references: references.map(str::to_owned),
    };
    let fields = [
        ("count", field(None, Some(Merge::Counter), None)),
        ("tags", field(None, Some(Merge::Set), None)),
        ("approval", field(Some(Strategy::Manual), None, None)),
        ("parent", field(None, None, Some("task"))),
    ];
    let fields = fields.map(|(name, field)| (name.to_owned(), field)).into();
    let task = config::Entity { strategy, fields, ..config::Entity::default() };
    let mut config = Config::default();
    config.entities.0.insert("task".into(), task);
    config.limits.entity_bytes = 1000;
    let roles = crate::auth::Roles::compile(&config.roles).unwrap();
    let notices = crate::sync::notify::Notices::new(&config.push, &roles, Default::default());
    Rules::new(&config, notices)
}

/// A store in memory, for the pure function alone.
struct World {
    snapshot: Snapshot,
    rules: Rules,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self::of(Strategy::Merge)
    }

    fn of(strategy: Strategy) -> Self {
        let snapshot = Snapshot {
            project: "p".parse().unwrap(),
            head: Seq::ZERO,
            epoch: Epoch(Uuid::nil()),
            verdicts: HashMap::new(),
            entities: HashMap::new(),
            mappings: HashMap::new(),
            conflicts: HashMap::new(),
            members: HashMap::new(),
        };
        Self { snapshot, rules: rules(strategy), now: 1000 }
    }

    fn run(&mut self, ops: &[PendingOp]) -> Vec<Verdict> {
        let effects = plan(&self.snapshot, ops, self.now, &self.rules);
        assert_eq!(effects.answers.len(), ops.len());
        for entry in &effects.entries {
            assert_eq!(entry.seq, self.snapshot.head.next(), "the log is dense");
            self.snapshot.head = entry.seq;
        }
        self.snapshot.entities.extend(effects.entities);
        self.snapshot.mappings.extend(effects.mappings);
        let conflicts = effects.conflicts.into_iter().map(|parked| (parked.conflict.id, parked));
        self.snapshot.conflicts.extend(conflicts);
        for (op, answer) in ops.iter().zip(&effects.answers) {
            if let Answer::New(given) = answer {
                let recorded = Recorded {
                    payload_hash: op.payload_hash,
                    user: op.actor.user.clone(),
                    verdict: given.verdict.clone(),
                    outcome: given.outcome,
                    kept: given.outcome == Outcome::Rejected,
                };
                let known = self.snapshot.verdicts.insert(op.op.op_id.clone(), recorded);
                assert!(known.is_none() || op.retry);
            }
        }
        let read = |a: &Answer| serde_json::from_str(a.verdict().get()).unwrap();
        effects.answers.iter().map(read).collect()
    }

    fn one(&mut self, client: &str, op: &Value) -> Verdict {
        self.run(&[pending(client, op)]).remove(0)
    }

    fn group(&mut self, client: &str, ops: &[Value]) -> Vec<Verdict> {
        let mut ops: Vec<_> = ops.iter().map(|op| pending(client, op)).collect();
        ops[1..].iter_mut().for_each(|op| op.joined = true);
        self.run(&ops)
    }

    fn fields(&self) -> Value {
        json!(self.snapshot.entities[&key("t1")].fields)
    }

    fn logged(&self, verdict: &Verdict) -> &Parked {
        &self.snapshot.conflicts[&verdict.conflict.expect("a conflict was logged")]
    }
}

fn key(id: &str) -> EntityKey {
    EntityKey { kind: "task".parse().unwrap(), id: id.parse().unwrap() }
}

fn outcomes(verdicts: &[Verdict]) -> Vec<Outcome> {
    verdicts.iter().map(|verdict| verdict.outcome).collect()
}

#[test]
fn edits_of_different_fields_merge_by_themselves() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x", "done": false})));
    assert_eq!(world.one("b", &op("2", "update", 1, json!({"title": "y"}))).seq, Some(Seq(2)));
    let verdict = world.one("a", &op("3", "update", 1, json!({"done": true})));
    assert_eq!((verdict.outcome, verdict.conflict), (Outcome::Applied, None));
    assert_eq!(world.fields(), json!({"title": "y", "done": true}));
}

#[test]
fn the_loser_of_a_field_is_told_what_stands_and_is_remembered() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x", "done": false})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    let verdict = world.one("a", &op("3", "update", 1, json!({"title": "z"})));
    assert_eq!(verdict.outcome, Outcome::Superseded);
    assert_eq!((verdict.seq, verdict.code.as_deref()), (None, Some("fields")));
    let current = verdict.current.clone().unwrap();
    assert_eq!(current.version, Seq(2));
    assert_eq!(json!(current.fields), json!({"title": "y", "done": false}));
    let Parked { conflict, op } = world.logged(&verdict);
    assert_eq!((conflict.kind, conflict.state), (ConflictKind::Fields, ConflictState::Closed));
    assert_eq!(conflict.fields[0].client, Some(json!("z")), "what was lost can be got back");
    assert_eq!(conflict.fields[0].server, Some(json!("y")));
    assert!(op.is_none());
}

#[test]
fn an_operation_that_wins_some_fields_and_loses_others_is_merged() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x", "done": false})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    let verdict = world.one("a", &op("3", "update", 1, json!({"title": "z", "done": true})));
    assert_eq!(verdict.outcome, Outcome::Merged);
    assert_eq!(json!(verdict.fields), json!({"title": "y", "done": true}));
    assert_eq!(verdict.seq, Some(Seq(3)));
    assert_eq!(world.logged(&verdict).conflict.fields.len(), 1, "only what was in conflict");
}

#[test]
fn a_field_somebody_set_back_to_what_the_client_saw_is_no_conflict() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    world.one("b", &op("3", "update", 2, json!({"title": "x"})));
    let edit = op("4", "update", 1, json!({"title": "z"}));
    let verdict = world.one("a", &with(edit, "was", json!({"title": "x"})));
    assert_eq!((verdict.outcome, verdict.conflict), (Outcome::Applied, None));
    let same = world.one("b", &op("5", "update", 1, json!({"title": "z"})));
    assert_eq!((same.outcome, same.conflict), (Outcome::Noop, None), "both want the same");
}

#[test]
fn each_strategy_decides_an_edit_and_a_deletion() {
    for (strategy, edit, title, deletion) in [
        (Strategy::ClientWins, Outcome::Applied, "z", Outcome::Applied),
        (Strategy::ServerWins, Outcome::Superseded, "y", Outcome::Superseded),
        (Strategy::Merge, Outcome::Superseded, "y", Outcome::Superseded),
        (Strategy::LastWriteWins, Outcome::Applied, "z", Outcome::Applied),
        (Strategy::Manual, Outcome::Conflict, "y", Outcome::Conflict),
    ] {
        let mut world = World::of(strategy);
        world.one("a", &op("1", "create", 0, json!({"title": "x"})));
        world.one("b", &with(op("2", "update", 1, json!({"title": "y"})), "edited_at", 500));
        let later = with(op("3", "update", 1, json!({"title": "z"})), "edited_at", 600);
        let verdict = world.one("a", &later);
        assert_eq!(verdict.outcome, edit, "{strategy:?}");
        assert_eq!(world.fields()["title"], title, "{strategy:?}");
        let logged = &world.logged(&verdict).conflict;
        assert_eq!((logged.kind, logged.outcome), (ConflictKind::Fields, edit), "{strategy:?}");
        let verdict = world.one("c", &with(op("4", "delete", 1, json!({})), "edited_at", 700));
        assert_eq!(verdict.outcome, deletion, "{strategy:?}");
        assert_eq!(world.logged(&verdict).conflict.kind, ConflictKind::Changed);
    }
}

#[test]
fn the_earlier_edit_loses_under_last_write_wins_whenever_it_arrives() {
    let mut world = World::of(Strategy::LastWriteWins);
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    world.one("b", &with(op("2", "update", 1, json!({"title": "y"})), "edited_at", 600));
    let early = with(op("3", "update", 1, json!({"title": "z"})), "edited_at", 500);
    assert_eq!(world.one("a", &early).outcome, Outcome::Superseded);
    // A clock ahead of the hub's wins no more than one that is right.
    let ahead = with(op("4", "update", 1, json!({"title": "w"})), "edited_at", 999_999);
    assert_eq!(world.one("c", &ahead).outcome, Outcome::Applied);
    world.now = 2000;
    let now = with(op("5", "update", 1, json!({"title": "v"})), "edited_at", 1500);
    assert_eq!(world.one("a", &now).outcome, Outcome::Applied);
}

#[test]
fn an_edit_of_what_was_deleted_stays_dead_or_brings_it_back() {
    let deleted = |strategy| {
        let mut world = World::of(strategy);
        world.one("a", &op("1", "create", 0, json!({"title": "x", "done": false})));
        world.one("b", &op("2", "delete", 1, json!({})));
        let verdict = world.one("a", &op("3", "update", 1, json!({"done": true})));
        (world, verdict)
    };
    let (world, verdict) = deleted(Strategy::ServerWins);
    assert_eq!((verdict.outcome, verdict.code.as_deref()), (Outcome::Superseded, Some("deleted")));
    assert!(verdict.current.clone().unwrap().deleted);
    assert_eq!(
        json!(verdict.current.clone().unwrap().fields),
        json!({}),
        "a tombstone tells nothing"
    );
    assert_eq!(world.logged(&verdict).conflict.kind, ConflictKind::Deleted);
    let (mut world, verdict) = deleted(Strategy::ClientWins);
    assert_eq!((verdict.outcome, verdict.seq), (Outcome::Applied, Some(Seq(3))));
    assert_eq!(world.fields(), json!({"title": "x", "done": true}), "as it was, with the edit");
    assert_eq!(world.one("c", &op("4", "delete", 3, json!({}))).outcome, Outcome::Applied);
    // Whoever saw the deletion, or made it, edits nothing that is not there.
    let after = world.one("b", &op("5", "update", 4, json!({"done": false})));
    assert_eq!((after.outcome, after.code.as_deref()), (Outcome::Rejected, Some("deleted")));
    assert_eq!(world.one("b", &op("6", "create", 4, json!({"n": 1}))).outcome, Outcome::Applied);
    assert_eq!(world.fields(), json!({"n": 1}));
}

#[test]
fn two_creates_of_one_id_meet_field_by_field() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x", "done": false})));
    let verdict = world.one("b", &op("2", "create", 0, json!({"title": "y", "owner": "bo"})));
    assert_eq!(verdict.outcome, Outcome::Merged);
    assert_eq!(world.fields(), json!({"title": "x", "done": false, "owner": "bo"}));
    assert_eq!(world.logged(&verdict).conflict.kind, ConflictKind::Exists);
    let own = world.one("a", &op("3", "create", 0, json!({"title": "z"})));
    assert_eq!((own.outcome, own.conflict), (Outcome::Applied, None), "its own, again");
}

#[test]
fn deleting_what_is_gone_or_never_was_does_nothing() {
    let mut world = World::new();
    let update = world.one("a", &op("0", "update", 0, json!({"n": 1})));
    assert_eq!((update.outcome, update.code.as_deref()), (Outcome::Rejected, Some("not_found")));
    assert_eq!(world.one("a", &op("1", "delete", 0, json!({}))).outcome, Outcome::Noop);
    world.one("a", &op("2", "create", 0, json!({"n": 1})));
    world.one("b", &op("3", "delete", 1, json!({})));
    assert_eq!(world.one("a", &op("4", "delete", 1, json!({}))).outcome, Outcome::Noop);
}

#[test]
fn a_clients_queued_edits_do_not_conflict_with_each_other() {
    let mut world = World::new();
    let verdicts = world.run(&[
        pending("a", &op("1", "create", 0, json!({"title": 1}))),
        pending("a", &op("2", "update", 0, json!({"title": 2}))),
        pending("a", &op("3", "update", 0, json!({"title": 3}))),
        pending("a", &op("3b", "delete", 0, json!({}))),
        pending("a", &op("3c", "create", 0, json!({"title": 4}))),
    ]);
    assert_eq!(outcomes(&verdicts), [Outcome::Applied; 5], "{verdicts:?}");
    world.one("b", &op("4", "update", 5, json!({"title": 5})));
    let verdict = world.one("a", &op("5", "update", 5, json!({"title": 6})));
    assert_eq!(verdict.outcome, Outcome::Superseded, "it was made without b's change");
}

#[test]
fn the_same_installation_under_another_user_is_somebody_else() {
    let mut world = World::new();
    let of = |user: &str, op: Value| {
        let mut pending = pending("phone", &op);
        pending.actor.user = user.into();
        pending
    };
    world.run(&[
        of("ana", op("1", "create", 0, json!({"title": "x", "done": false}))),
        of("ana", op("2", "update", 1, json!({"title": "y"}))),
    ]);
    let late = world.run(&[
        of("bo", op("3", "update", 1, json!({"title": "z"}))),
        of("bo", op("4", "delete", 1, json!({}))),
        of("ana", op("5", "update", 1, json!({"title": "w"}))),
    ]);
    assert_eq!(outcomes(&late), [Outcome::Superseded, Outcome::Superseded, Outcome::Applied]);
    let unseen = &world.logged(&late[1]).conflict.fields;
    assert_eq!(unseen.iter().map(|field| &*field.name).collect::<Vec<_>>(), ["title"]);
}

#[test]
fn a_stamp_without_a_user_is_the_clients() {
    let stamp = |by: &str| Stamp(Seq(1), by.into(), "1".into(), 0);
    let actor = |user: &str| Actor { user: user.into(), client: "phone".into() };
    assert!(stamp("phone").by(&actor("ana")) && !stamp("tablet").by(&actor("ana")));
    let new = Stamp::new(Seq(1), &actor("ana"), "1", 0);
    assert!(new.by(&actor("ana")) && !new.by(&actor("bo")));
    let client = "source:erp".into();
    let backend = Stamp::new(Seq(1), &Actor { client, ..actor("erp") }, "1", 0);
    assert_eq!(
        [&stamp("phone"), &new, &backend].map(Stamp::client),
        ["phone", "phone", "source:erp"]
    );
}

#[test]
fn queued_edits_of_a_counter_and_a_set_each_count_once() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"count": 5, "tags": ["a"]})));
    world.one("b", &op("2", "update", 1, json!({"count": 10, "tags": ["a", "b"]})));
    let edit = |id, was: Value, fields| with(op(id, "update", 1, fields), "was", was);
    let first =
        edit("3", json!({"count": 5, "tags": ["a"]}), json!({"count": 6, "tags": ["a", "c"]}));
    let second =
        edit("4", json!({"count": 6, "tags": ["a", "c"]}), json!({"count": 7, "tags": ["c"]}));
    let verdicts = world.run(&[pending("a", &first), pending("a", &second)]);
    assert_eq!(outcomes(&verdicts), [Outcome::Merged; 2], "{verdicts:?}");
    assert_eq!(world.fields(), json!({"count": 12, "tags": ["b", "c"]}));
    assert_eq!(json!(verdicts[1].fields), world.fields());
}

#[test]
fn a_base_the_log_never_reached_has_seen_nothing() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    let verdict = world.one("b", &op("2", "update", 9, json!({"title": "y"})));
    assert_eq!(verdict.outcome, Outcome::Superseded, "its future was lost with a store");
}

#[test]
fn a_retry_gets_the_same_bytes_and_a_reused_id_is_refused() {
    let mut world = World::new();
    let create = pending("a", &op("1", "create", 0, json!({"n": 1})));
    let first = plan(&world.snapshot, std::slice::from_ref(&create), 1000, &world.rules);
    world.run(std::slice::from_ref(&create));
    let again = plan(&world.snapshot, &[create.clone(), create.clone()], 2000, &world.rules);
    for answer in &again.answers {
        assert!(
            matches!(answer, Answer::Replayed(v) if v.get() == first.answers[0].verdict().get())
        );
    }
    assert!(again.entries.is_empty() && again.entities.is_empty());
    let verdict = world.one("a", &op("1", "create", 0, json!({"n": 2})));
    assert_eq!(verdict.code.as_deref(), Some("op_id_reused"));
    let mut stranger = create;
    stranger.actor.user = "somebody else".into();
    assert_eq!(world.run(&[stranger])[0].code.as_deref(), Some("op_id_reused"));
    // The same id twice within one group has one effect, too.
    let twice = pending("a", &op("7", "update", 1, json!({"n": 7})));
    let effects = plan(&world.snapshot, &[twice.clone(), twice], 1000, &world.rules);
    assert_eq!(effects.entries.len(), 1);
}

#[test]
fn a_rejected_operation_is_decided_anew_only_if_its_user_asks_for_it() {
    let mut world = World::new();
    let update = pending("a", &op("1", "update", 0, json!({"n": 1})));
    assert_eq!(world.run(std::slice::from_ref(&update))[0].outcome, Outcome::Rejected);
    world.one("b", &op("2", "create", 0, json!({})));
    assert_eq!(world.run(std::slice::from_ref(&update))[0].outcome, Outcome::Rejected);
    let retried = PendingOp { retry: true, ..update };
    assert_eq!(world.run(std::slice::from_ref(&retried))[0].outcome, Outcome::Applied);
    let effects = plan(&world.snapshot, &[retried], 1000, &world.rules);
    assert!(matches!(effects.answers[0], Answer::Replayed(_)), "what was applied stays applied");
}

#[test]
fn a_group_takes_effect_together_or_not_at_all() {
    let named = |id: &str, op: Value| with(op, "id", id);
    let mut world = World::new();
    let verdicts = world.group(
        "a",
        &[
            named("g1", op("1", "create", 0, json!({"n": 1}))),
            named("g1", op("2", "update", 0, json!({"n": 2}))),
            named("none", op("3", "update", 0, json!({"n": 3}))),
        ],
    );
    assert_eq!(outcomes(&verdicts), [Outcome::Rejected; 3]);
    let codes: Vec<_> = verdicts.iter().map(|v| v.code.as_deref().unwrap()).collect();
    assert_eq!(codes, ["group_failed", "group_failed", "not_found"]);
    assert!(world.snapshot.entities.is_empty() && world.snapshot.head == Seq::ZERO);
    let verdicts = world.group(
        "a",
        &[
            named("g1", op("6", "create", 0, json!({"n": 1}))),
            named("none", op("3", "update", 0, json!({"n": 3}))),
        ],
    );
    assert_eq!(outcomes(&verdicts), [Outcome::Rejected; 2], "what failed fails another group, too");
    let verdicts = world.group(
        "a",
        &[
            named("g1", op("4", "create", 0, json!({"n": 1}))),
            named("g1", op("5", "update", 0, json!({"n": 2}))),
        ],
    );
    assert_eq!(outcomes(&verdicts), [Outcome::Applied; 2]);
    assert_eq!(world.snapshot.head, Seq(2));
}

/// Runs a group whose members fail only because of each other, on `t1` with a title.
fn failing_together(world: &mut World, ops: &[Value]) -> Vec<String> {
    let (head, before) = (world.snapshot.head, world.fields());
    let verdicts = world.group("a", ops);
    assert!(verdicts.iter().all(|verdict| verdict.seq.is_none()), "{verdicts:?}");
    assert_eq!((world.snapshot.head, world.fields()), (head, before), "{verdicts:?}");
    verdicts.into_iter().map(|verdict| verdict.code.unwrap()).collect()
}

#[test]
fn what_fails_only_because_of_its_group_takes_no_effect_alone() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    let update = |id: &str, fields| op(id, "update", 1, fields);
    let long = json!({"text": "x".repeat(600)});
    let more = json!({"more": "y".repeat(600)});
    for (ops, codes) in [
        (
            vec![op("2", "delete", 1, json!({})), update("3", json!({"title": "y"}))],
            ["group_failed", "deleted"],
        ),
        (vec![update("4", long), update("5", more)], ["group_failed", "limit_exceeded"]),
        (
            vec![
                with(op("6", "create", 0, json!({})), "id", "local:1"),
                with(update("7", json!({"text": "x".repeat(2000)})), "id", "local:1"),
            ],
            ["group_failed", "limit_exceeded"],
        ),
        (
            vec![update("8", json!({"title": "y"})), update("8", json!({"title": "z"}))],
            ["group_failed", "op_id_reused"],
        ),
    ] {
        assert_eq!(failing_together(&mut world, &ops), codes);
    }
    let alone = world.one("a", &update("9", json!({"title": "y"})));
    assert_eq!(alone.outcome, Outcome::Applied);
}

#[test]
fn a_decision_that_its_own_group_makes_stale_takes_no_effect_alone() {
    let (mut world, conflict) = parked();
    let edit = op("4", "update", 2, json!({"title": "y"}));
    let decision = resolve("5", &conflict, 2, json!({"choose": "client"}));
    let before = world.logged(&conflict).clone();
    assert_eq!(failing_together(&mut world, &[edit, decision]), ["group_failed"; 2]);
    assert_eq!(world.logged(&conflict), &before, "it is still to be decided");
    let decision = resolve("6", &conflict, 2, json!({"choose": "client"}));
    assert_eq!(world.one("a", &decision).outcome, Outcome::Applied);
}

#[test]
fn a_lost_operation_stops_its_group_and_is_logged() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    let other = with(op("3", "create", 0, json!({})), "id", "other");
    let verdicts = world.group("a", &[other, op("4", "update", 1, json!({"title": "z"}))]);
    assert_eq!(outcomes(&verdicts), [Outcome::Rejected, Outcome::Superseded]);
    assert_eq!(verdicts[0].code.as_deref(), Some("group_failed"));
    assert_eq!(world.logged(&verdicts[1]).conflict.fields[0].client, Some(json!("z")));
    assert_eq!(world.snapshot.head, Seq(2));
}

#[test]
fn a_parked_operation_stops_its_group_and_is_parked() {
    let mut world = World::of(Strategy::Manual);
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    let verdicts = world.group(
        "a",
        &[
            with(op("3", "create", 0, json!({})), "id", "other"),
            op("4", "update", 1, json!({"title": "z"})),
        ],
    );
    assert_eq!(outcomes(&verdicts), [Outcome::Rejected, Outcome::Conflict]);
    assert!(world.logged(&verdicts[1]).op.is_some());
    assert_eq!(world.snapshot.head, Seq(2));
}

#[test]
fn a_client_names_its_entities_itself_until_they_have_an_id() {
    let mut world = World::new();
    let local = |id: &str, op: Value| with(op, "id", id);
    let verdicts = world.run(&[
        pending("a", &local("local:1", op("1", "create", 0, json!({"n": 1})))),
        pending("a", &local("local:1", op("2", "update", 0, json!({"n": 2})))),
        pending("a", &op("3", "create", 0, json!({"parent": "local:1"}))),
    ]);
    assert_eq!(outcomes(&verdicts), [Outcome::Applied; 3], "{verdicts:?}");
    let id = verdicts[0].id.id().unwrap().clone();
    assert_eq!(verdicts[0].local_id.as_ref().unwrap().as_str(), "local:1");
    assert_eq!(verdicts[1].id.id(), Some(&id));
    assert_eq!(world.fields()["parent"], id.as_str(), "references follow");
    let own = local("local:self", op("9", "create", 0, json!({"parent": "local:self"})));
    let own = EntityKey { id: world.one("a", &own).id.id().unwrap().clone(), ..key("t1") };
    let parent = &world.snapshot.entities[&own].fields["parent"];
    assert_eq!(parent, own.id.as_str(), "to itself, too");
    let later = world.one("a", &local("local:1", op("4", "update", 0, json!({"n": 3}))));
    assert_eq!(later.id.id(), Some(&id), "the name lasts");
    let again = world.one("a", &local("local:1", op("5", "create", 0, json!({"n": 4}))));
    assert_eq!(again.id.id(), Some(&id), "a second create is of the same entity");
    assert_eq!(world.snapshot.entities[&key(id.as_str())].fields["n"], 4);
    for (client, op, field) in [
        ("b", local("local:1", op("6", "update", 0, json!({"n": 5}))), "another's name"),
        ("a", local("local:2", op("7", "delete", 0, json!({}))), "never created"),
        ("a", op("8", "update", 0, json!({"parent": "local:2"})), "a reference to nothing"),
    ] {
        let verdict = world.one(client, &op);
        assert_eq!(verdict.code.as_deref(), Some("unknown_local_id"), "{field}");
    }
}

#[test]
fn a_name_whose_create_is_refused_stays_free() {
    let mut world = World::new();
    let create =
        |id, text: String| with(op(id, "create", 0, json!({"text": text})), "id", "local:1");
    let verdict = world.one("a", &create("1", "x".repeat(2000)));
    assert_eq!(verdict.code.as_deref(), Some("limit_exceeded"));
    assert_eq!((verdict.id.as_str(), verdict.local_id), ("local:1", None));
    assert!(world.snapshot.mappings.is_empty());
    assert_eq!(world.one("a", &create("2", "x".into())).outcome, Outcome::Applied);
}

#[test]
fn who_set_the_fields_counts_as_much_as_what_they_are() {
    let mut world = World::new();
    world.one("a", &op("0", "create", 0, json!({})));
    let grown = |n: u64| op(&n.to_string(), "update", n, json!({format!("f{n}"): 1}));
    let refused = (1..100).find(|n| world.one("a", &grown(*n)).outcome == Outcome::Rejected);
    let fields = world.fields().as_object().unwrap().len();
    assert!((5..25).contains(&fields), "{fields} fields, {refused:?}");
}

#[test]
fn an_entity_grows_only_to_its_limit() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"a": "x".repeat(300)})));
    let grown = world.one("a", &op("2", "update", 1, json!({"b": "x".repeat(400)})));
    assert_eq!(grown.outcome, Outcome::Applied);
    let verdict = world.one("a", &op("3", "update", 2, json!({"c": "x".repeat(400)})));
    assert_eq!(verdict.code.as_deref(), Some("limit_exceeded"));
    assert!(verdict.message.unwrap().contains("entity_bytes"));
    let replaced = world.one("a", &op("4", "update", 2, json!({"b": "y".repeat(400)})));
    assert_eq!(replaced.outcome, Outcome::Applied, "what is replaced does not count");
}

fn parked() -> (World, Verdict) {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"approval": "none", "title": "x"})));
    world.one("b", &op("2", "update", 1, json!({"approval": "bo"})));
    let verdict = world.one("a", &op("3", "update", 1, json!({"approval": "ana", "title": "z"})));
    assert_eq!(verdict.outcome, Outcome::Conflict);
    assert_eq!(world.fields(), json!({"approval": "bo", "title": "x"}), "the whole op is parked");
    (world, verdict)
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better with `json!` in place")]
fn resolve(id: &str, conflict: &Verdict, version: u64, choice: Value) -> Value {
    let mut op = op(id, "resolve", 0, json!({}));
    op["conflict"] = json!(conflict.conflict);
    op["expected_version"] = version.into();
    for (name, value) in choice.as_object().unwrap() {
        op[name] = value.clone();
    }
    op
}

#[test]
fn a_parked_operation_waits_for_its_user_and_is_resolved_once() {
    let (mut world, conflict) = parked();
    let choice = json!({"choose": "client"});
    let strangers = world.one("b", &resolve("4", &conflict, 2, choice.clone()));
    assert_eq!(strangers.code.as_deref(), Some("not_found"));
    let verdict = world.one("a", &resolve("5", &conflict, 2, choice.clone()));
    assert_eq!((verdict.outcome, verdict.seq), (Outcome::Applied, Some(Seq(3))));
    assert_eq!(world.fields(), json!({"approval": "ana", "title": "z"}));
    let closed = &world.logged(&conflict).conflict;
    assert_eq!(closed.state, ConflictState::Resolved);
    assert_eq!(closed.resolved_by.as_ref().map(OpId::as_str), Some("5"));
    let again = world.one("a", &resolve("6", &conflict, 3, choice));
    assert_eq!(again.code.as_deref(), Some("not_open"));
}

#[test]
fn each_field_of_a_conflict_can_be_chosen_or_given() {
    let (mut world, conflict) = parked();
    let choice = json!({"choose": {"title": "client"}, "fields": {"approval": "both"}});
    let verdict = world.one("a", &resolve("4", &conflict, 2, choice));
    assert_eq!(verdict.outcome, Outcome::Applied);
    assert_eq!(world.fields(), json!({"approval": "both", "title": "z"}));
    let (mut world, conflict) = parked();
    let verdict = world.one("a", &resolve("4", &conflict, 2, json!({"choose": "server"})));
    assert_eq!((verdict.outcome, verdict.seq), (Outcome::Noop, None));
    assert_eq!(world.logged(&conflict).conflict.state, ConflictState::Resolved);
}

#[test]
fn a_decision_leaves_out_no_edit_that_nobody_contests() {
    for choice in
        [json!({"choose": {"approval": "client"}}), json!({"fields": {"approval": "ana"}})]
    {
        let (mut world, conflict) = parked();
        world.one("a", &resolve("4", &conflict, 2, choice.clone()));
        assert_eq!(world.fields(), json!({"approval": "ana", "title": "z"}), "{choice}");

        // Somebody changed it since: it is contested now, whether the first decision saw that or not.
        for expected in [2, 3] {
            let (mut world, conflict) = parked();
            world.one("b", &op("4", "update", 2, json!({"title": "w"})));
            world.one("a", &resolve("5", &conflict, expected, choice.clone()));
            world.one("a", &resolve("6", &conflict, 3, choice.clone()));
            assert_eq!(world.fields(), json!({"approval": "ana", "title": "w"}), "{choice}");
            assert_eq!(world.logged(&conflict).conflict.state, ConflictState::Resolved);
        }
    }
}

#[test]
fn an_edit_of_what_was_deleted_and_made_anew_meets_the_deletion() {
    for (strategy, outcome, stands) in [
        (Strategy::ServerWins, Outcome::Superseded, json!({"title": "new"})),
        (Strategy::Manual, Outcome::Conflict, json!({"title": "new"})),
        (Strategy::ClientWins, Outcome::Applied, json!({"title": "new", "x": 2})),
    ] {
        let mut world = World::of(strategy);
        world.one("a", &op("1", "create", 0, json!({"title": "old", "x": 1})));
        world.one("b", &op("2", "delete", 1, json!({})));
        world.one("b", &op("3", "create", 2, json!({"title": "new"})));
        let edit = op("4", "update", 1, json!({"x": 2}));
        let verdict = world.one("a", &with(edit, "was", json!({"x": 1})));
        assert_eq!((verdict.outcome, world.fields()), (outcome, stands), "{strategy:?}");
        assert_eq!(world.logged(&verdict).conflict.kind, ConflictKind::Deleted);
    }
    // Who never knew of the field, or has seen the new entity, edits that.
    for (id, base, was) in [("4", 1, json!({"x": null})), ("5", 3, json!({"x": 1}))] {
        let mut world = World::of(Strategy::ServerWins);
        world.one("a", &op("1", "create", 0, json!({"title": "old"})));
        world.one("b", &op("2", "delete", 1, json!({})));
        world.one("b", &op("3", "create", 2, json!({"title": "new"})));
        let verdict = world.one("a", &with(op(id, "update", base, json!({"x": 2})), "was", was));
        assert_eq!((verdict.outcome, verdict.conflict), (Outcome::Applied, None));
    }
}

#[test]
fn what_replaces_a_rejected_operation_takes_effect_in_its_place_or_not_at_all() {
    let counter = |op_id: &str| op(op_id, "update", 0, json!({"count": 2}));
    let second = with(with(counter("2"), "was", json!({"count": 0})), "replaces", "1");
    let mut again = pending("a", &with(counter("1"), "was", json!({"count": 0})));
    again.retry = true;
    let rejected = |world: &mut World| {
        let first = again.clone();
        let first = world.run(&[PendingOp { retry: false, ..first }]).remove(0);
        assert_eq!(first.code.as_deref(), Some("not_found"));
        world.one("b", &op("made", "create", 0, json!({"count": 0})));
    };
    // Its replacement, then the operation itself: in one commit, so that only the plan can know.
    let mut world = World::new();
    rejected(&mut world);
    let verdicts = world.run(&[pending("a", &second), again.clone()]);
    assert_eq!(outcomes(&verdicts), [Outcome::Applied, Outcome::Rejected]);
    assert_eq!(world.fields(), json!({"count": 2}));
    // The other way round.
    let mut world = World::new();
    rejected(&mut world);
    let verdicts = world.run(&[again.clone(), pending("a", &second)]);
    assert_eq!(outcomes(&verdicts), [Outcome::Applied, Outcome::Noop]);
    assert_eq!(verdicts[1].code.as_deref(), Some("replaced"));
    assert_eq!(world.fields(), json!({"count": 2}));
    // What was cleared between its reading and its turn is not decided anew.
    let mut world = World::new();
    rejected(&mut world);
    world.snapshot.verdicts.get_mut(&again.op.op_id).unwrap().kept = false;
    assert_eq!(world.run(&[again.clone()])[0].outcome, Outcome::Rejected);
    // A stranger replaces nothing.
    let mut world = World::new();
    rejected(&mut world);
    let verdicts = world.run(&[pending("c", &with(second, "op_id", "3")), again]);
    assert_eq!(outcomes(&verdicts), [Outcome::Applied, Outcome::Merged]);
    assert_eq!(world.fields(), json!({"count": 4}));
}

#[test]
fn a_decision_on_what_has_moved_is_asked_for_again() {
    let (mut world, conflict) = parked();
    world.one("b", &op("4", "update", 2, json!({"approval": "cy"})));
    let choice = json!({"choose": "client"});
    let verdict = world.one("a", &resolve("5", &conflict, 2, choice.clone()));
    assert_eq!((verdict.outcome, verdict.code.as_deref()), (Outcome::Conflict, Some("moved")));
    assert_eq!(verdict.current.unwrap().version, Seq(3));
    let fresh = &world.logged(&conflict).conflict;
    assert_eq!((fresh.state, fresh.server_version), (ConflictState::Open, Seq(3)));
    assert_eq!(fresh.fields[0].server, Some(json!("cy")));
    assert_eq!(world.one("a", &resolve("6", &conflict, 3, choice)).outcome, Outcome::Applied);
}

#[test]
fn a_parked_deletion_is_done_only_by_who_may_delete() {
    let mut world = World::of(Strategy::Manual);
    world.one("a", &op("1", "create", 0, json!({"title": "x"})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    let conflict = world.one("a", &op("3", "delete", 1, json!({})));
    let mut pending = pending("a", &resolve("4", &conflict, 2, json!({"choose": "client"})));
    pending.access.no_delete = true;
    assert_eq!(world.run(&[pending.clone()])[0].code.as_deref(), Some("forbidden"));
    assert_eq!(world.logged(&conflict).conflict.state, ConflictState::Open);
    (pending.access.no_delete, pending.retry) = (false, true);
    assert_eq!(world.run(&[pending])[0].outcome, Outcome::Applied);
    assert!(world.snapshot.entities[&key("t1")].deleted);
}

#[test]
fn a_backend_that_overrules_a_parked_operation_leaves_a_trace() {
    let (mut world, conflict) = parked();
    assert_eq!(
        world.run(&[event("4", "update", None, json!({"approval": "erp"}))])[0].seq,
        Some(Seq(3))
    );
    let overruled = |world: &World| {
        let kinds = world.snapshot.conflicts.values().map(|parked| parked.conflict.kind);
        kinds.filter(|kind| *kind == ConflictKind::Overruled).count()
    };
    assert_eq!(overruled(&world), 1);
    assert_eq!(
        world.logged(&conflict).conflict.state,
        ConflictState::Open,
        "it is still to be decided"
    );
    world.run(&[event("5", "update", None, json!({"other": 1}))]);
    assert_eq!(overruled(&world), 1, "another field is no matter of it");
    let told = |world: &World| {
        let id = world.logged(&conflict).conflict.id.overruled();
        world.snapshot.conflicts[&id].conflict.fields.clone()
    };
    assert_eq!(told(&world)[0].server, Some(json!("erp")));
    world.run(&[event("6", "update", None, json!({"approval": "erp again"}))]);
    let effects = plan(
        &world.snapshot,
        &[event("7", "update", None, json!({"approval": "and again"}))],
        1000,
        &world.rules,
    );
    assert!(effects.conflicts.is_empty(), "however often it writes");
    assert_eq!((overruled(&world), told(&world)[0].server.clone()), (1, Some(json!("erp"))));
}

#[test]
fn a_backend_overrules_what_was_parked_in_the_same_commit() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"approval": "none"})));
    world.one("b", &op("2", "update", 1, json!({"approval": "bo"})));
    let late = pending("a", &op("3", "update", 1, json!({"approval": "ana"})));
    let overrule = event("4", "update", None, json!({"approval": "erp"}));
    let again = event("5", "update", None, json!({"approval": "crm"}));
    let verdicts = world.run(&[late, overrule, again]);
    assert_eq!(outcomes(&verdicts), [Outcome::Conflict, Outcome::Applied, Outcome::Applied]);
    let kinds = world.snapshot.conflicts.values().map(|parked| parked.conflict.kind);
    assert_eq!(kinds.filter(|kind| *kind == ConflictKind::Overruled).count(), 1, "one for both");
}

#[test]
fn verdicts_tell_nothing_the_role_does_not_see() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"title": "x", "salary": 1})));
    world.one("b", &op("2", "update", 1, json!({"title": "y"})));
    let mut late = pending("a", &op("3", "update", 1, json!({"title": "z"})));
    late.access.hidden = vec!["salary".into()];
    let verdict = world.run(&[late]).remove(0);
    assert_eq!(json!(verdict.current.unwrap().fields), json!({"title": "y"}));
}

#[test]
fn a_refused_operation_is_kept_with_its_reason() {
    let mut world = World::new();
    let mut refused = pending("a", &op("1", "create", 0, json!({})));
    refused.refused = Some(Refused { code: "forbidden", message: "no".into() });
    let verdict = world.run(std::slice::from_ref(&refused)).remove(0);
    assert_eq!((verdict.outcome, verdict.code.as_deref()), (Outcome::Rejected, Some("forbidden")));
    assert!(world.snapshot.verdicts.contains_key(&refused.op.op_id));
}

#[test]
fn an_update_logs_only_what_changed_and_nothing_when_nothing_does() {
    let mut world = World::new();
    world.one("a", &op("1", "create", 0, json!({"a": 1, "b": null})));
    let same = pending("b", &op("2", "update", 1, json!({"a": 1, "b": null})));
    assert_eq!(world.run(&[same])[0].outcome, Outcome::Noop);
    let update = pending("b", &op("3", "update", 1, json!({"a": 1, "b": 2})));
    let effects = plan(&world.snapshot, &[update], 1, &world.rules);
    assert_eq!(effects.entries[0].fields.as_ref().unwrap().get(), r#"{"b":2}"#);
}

#[test]
fn an_upsert_ignores_base_but_not_its_sources_version() {
    let mut world = World::new();
    let event = |id: &str, version, n: i32| event(id, "create", Some(version), json!({"n": n}));
    assert_eq!(world.run(&[event("1", 5, 1)])[0].outcome, Outcome::Applied);
    world.one("a", &op("2", "update", 1, json!({"n": 2})));
    assert_eq!(world.run(&[event("3", 5, 3)])[0].outcome, Outcome::Noop, "an old event");
    assert_eq!(world.run(&[event("4", 6, 4)])[0].outcome, Outcome::Applied);
    assert_eq!(world.fields()["n"], 4);
    assert_eq!(world.run(&[event("5", 8, 4)])[0].code, None, "newer, and nothing to change");
    assert_eq!(world.run(&[event("6", 7, 3)])[0].code.as_deref(), Some(STALE));
}

#[test]
fn a_backends_patch_needs_an_entity() {
    let mut world = World::new();
    let patch = |id: &str| event(id, "update", None, json!({"n": 1}));
    assert_eq!(world.run(&[patch("1")])[0].code.as_deref(), Some("not_found"));
    world.one("a", &op("2", "create", 0, json!({})));
    world.one("b", &op("3", "update", 1, json!({"m": 2})));
    assert_eq!(world.run(&[patch("4")])[0].outcome, Outcome::Applied, "whatever the version");
    world.one("b", &op("5", "delete", 3, json!({})));
    assert_eq!(world.run(&[patch("6")])[0].code.as_deref(), Some("deleted"));
}

#[test]
fn recipients_hear_once_and_the_actor_never() {
    let world = World::new();
    let mut op = op("1", "create", 0, json!({"n": 1}));
    op["notify"] = json!({"users": ["bo", "user of a", "bo", "cy"], "title": "t", "lane": "high"});
    let effects = plan(&world.snapshot, &[pending("a", &op)], 1000, &world.rules);
    let [draft] = &effects.notifications[..] else { panic!("one draft") };
    let users: Vec<_> = draft.audience.users.iter().map(|user| user.as_str()).collect();
    assert_eq!((users, draft.audience.actor.as_str()), (vec!["bo", "cy"], "user of a"));
    assert_eq!((draft.grace, draft.seq), (1500, Seq(1)));
}
