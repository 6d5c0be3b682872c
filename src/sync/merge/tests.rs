use proptest::prelude::{Strategy as Strategy_, *};
use serde_json::{Value, json};

use super::{Edit, Resolved, Rule, Sides, resolve};
use crate::protocol::conflict::{Merge, Strategy};

const OURS: Edit<'_> = Edit { at: 10, client: "a", op: "1" };
/// The largest integer that every reader takes.
const MOST: i64 = (1 << 53) - 1;
const THEIRS: Edit<'_> = Edit { at: 20, client: "b", op: "2" };

fn rule(strategy: Strategy, merge: Option<Merge>) -> Rule {
    Rule { strategy, merge, fallback: Strategy::ServerWins }
}

fn sides<'a>(server: &'a Value, client: &'a Value, was: Option<&'a Value>) -> Sides<'a> {
    Sides { server: Some(server), client, was, conflict: true, theirs: THEIRS, ours: OURS }
}

/// The value the field ends with.
fn value(resolved: Resolved, server: &Value, client: &Value) -> Value {
    match resolved {
        Resolved::Client => client.clone(),
        Resolved::Server => server.clone(),
        Resolved::Merged(value) => value,
        Resolved::Park => panic!("parked"),
    }
}

fn merged(kind: Merge, server: &Value, client: &Value, was: &Value) -> Value {
    let rule = rule(Strategy::Merge, Some(kind));
    value(resolve(rule, sides(server, client, Some(was))), server, client)
}

#[test]
fn each_strategy_has_its_winner() {
    let (server, client) = (json!("theirs"), json!("ours"));
    let of = |strategy| resolve(rule(strategy, None), sides(&server, &client, None));
    assert_eq!(of(Strategy::ClientWins), Resolved::Client);
    assert_eq!(of(Strategy::ServerWins), Resolved::Server);
    assert_eq!(of(Strategy::Merge), Resolved::Server, "the fallback's");
    assert_eq!(of(Strategy::LastWriteWins), Resolved::Server, "theirs is later");
    assert_eq!(of(Strategy::Manual), Resolved::Park);
    let calm = Sides { conflict: false, ..sides(&server, &client, None) };
    for strategy in [Strategy::ServerWins, Strategy::Manual, Strategy::Merge] {
        assert_eq!(resolve(rule(strategy, None), calm), Resolved::Client, "nobody else changed it");
    }
    let equal = sides(&server, &server, None);
    assert_eq!(resolve(rule(Strategy::Manual, None), equal), Resolved::Server, "nothing to decide");
}

#[test]
fn a_queued_edit_of_a_counter_is_a_difference_even_without_a_conflict() {
    // 5 here, 6 offline; somebody else made it 10; the first edit made it 11; the second was 6 → 7.
    let (server, client, was) = (json!(11), json!(7), json!(6));
    let calm = Sides { conflict: false, ..sides(&server, &client, Some(&was)) };
    let rule = rule(Strategy::Merge, Some(Merge::Counter));
    assert_eq!(resolve(rule, calm), Resolved::Merged(json!(12)));
}

#[test]
fn kinds_merge_what_is_of_their_kind_and_leave_the_rest_to_the_fallback() {
    for (kind, server, client, was, expected) in [
        (Merge::Counter, json!(10), json!(6), json!(5), json!(11)),
        (Merge::Counter, json!(1.5), json!(2), json!(1), json!(2.5)),
        (Merge::Counter, json!(MOST), json!(2), json!(1), json!(MOST)),
        (Merge::Counter, json!(1e308), json!(1e308), json!(-1e308), json!(1e308)),
        (Merge::Counter, json!("10"), json!(6), json!(5), json!("10")),
        (
            Merge::Set,
            json!(["a", "c"]),
            json!(["a", "b"]),
            json!(["a", "d"]),
            json!(["a", "c", "b"]),
        ),
        (Merge::Set, json!(["a", "d", "d"]), json!(["a"]), json!(["a", "d"]), json!(["a"])),
        (Merge::Set, json!(["a", "a"]), json!(["a", "a"]), json!(["a", "a"]), json!(["a", "a"])),
        (
            Merge::Set,
            json!(["a", "a"]),
            json!(["a", "b", "b"]),
            json!(["a"]),
            json!(["a", "a", "b"]),
        ),
        (Merge::Set, json!(null), json!(["a"]), json!([]), json!(null)),
        (Merge::Max, json!(3), json!(4.5), json!(1), json!(4.5)),
        (Merge::Max, json!("2026-01-02"), json!("2025-12-31"), json!(null), json!("2026-01-02")),
        (Merge::Min, json!(3), json!(4.5), json!(1), json!(3)),
        (Merge::Min, json!([3]), json!(1), json!(null), json!([3])),
        (Merge::Append, json!("log\nb"), json!("log\na"), json!("log"), json!("log\nb\na")),
        (Merge::Append, json!([1, 2]), json!([1, 3]), json!([1]), json!([1, 2, 3])),
        (Merge::Append, json!([1, 2]), json!([9]), json!([1]), json!([1, 2])),
    ] {
        assert_eq!(merged(kind, &server, &client, &was), expected, "{kind:?} {server} {client}");
    }
}

#[test]
fn a_long_list_is_merged_in_good_time() {
    let long: Vec<u32> = (0..50_000).collect();
    let other: Vec<u32> = (40_000..90_000).collect();
    let union = merged(Merge::Set, &json!(long), &json!(other), &json!([]));
    assert_eq!(union.as_array().map(Vec::len), Some(90_000));
}

fn any_value() -> impl Strategy_<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-b]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_rule() -> impl Strategy_<Value = Rule> {
    let strategy = || {
        prop::sample::select(vec![
            Strategy::ClientWins,
            Strategy::ServerWins,
            Strategy::Merge,
            Strategy::LastWriteWins,
            Strategy::Manual,
        ])
    };
    let kinds = vec![Merge::Counter, Merge::Set, Merge::Max, Merge::Min, Merge::Append];
    (strategy(), prop::option::of(prop::sample::select(kinds)), strategy())
        .prop_map(|(strategy, merge, fallback)| Rule { strategy, merge, fallback })
}

fn numbers() -> impl Strategy_<Value = Vec<Value>> {
    prop::collection::vec((-1000_i64..1000).prop_map(Value::from), 0..6)
}

proptest! {
    /// Every value under every rule has an answer, and the answer stands if the operation comes again.
    #[test]
    fn total_and_idempotent(
        rule in any_rule(), server in any_value(), client in any_value(),
        was in prop::option::of(any_value()), conflict: bool,
    ) {
        let first = Sides { conflict, ..sides(&server, &client, was.as_ref()) };
        let resolved = resolve(rule, first);
        if resolved != Resolved::Park {
            let result = value(resolved, &server, &client);
            // Now the field is the client's own: no conflict, and it starts from what it was told.
            let again = Sides { conflict: false, ..sides(&result, &result, Some(&result)) };
            prop_assert_eq!(value(resolve(rule, again), &result, &result), result.clone());
        }
    }

    /// Two counters' differences, two sets' changes and two maxima end alike in either order.
    #[test]
    fn merges_commute(was in -1000_i64..1000, a in -1000_i64..1000, b in -1000_i64..1000) {
        let (was, a, b) = (json!(was), json!(a), json!(b));
        for kind in [Merge::Counter, Merge::Max, Merge::Min] {
            let ab = merged(kind, &merged(kind, &was, &a, &was), &b, &was);
            let ba = merged(kind, &merged(kind, &was, &b, &was), &a, &was);
            prop_assert_eq!(ab, ba, "{:?}", kind);
        }
    }

    #[test]
    fn sets_commute_and_lose_nothing(was in numbers(), a in numbers(), b in numbers()) {
        let sorted = |value: Value| {
            let mut texts: Vec<_> = value.as_array().unwrap().iter().map(Value::to_string).collect();
            texts.sort();
            texts
        };
        let (was, a, b) = (json!(was), json!(a), json!(b));
        let union = |server: &Value, client: &Value| merged(Merge::Set, server, client, &was);
        let ab = union(&union(&was, &a), &b);
        prop_assert_eq!(sorted(ab.clone()), sorted(union(&union(&was, &b), &a)));
        let added = |from: &Value| -> Vec<Value> {
            let started = was.as_array().unwrap();
            from.as_array().unwrap().iter().filter(|v| !started.contains(v)).cloned().collect()
        };
        for value in added(&a).iter().chain(&added(&b)) {
            prop_assert!(ab.as_array().unwrap().contains(value), "{} was lost", value);
        }
    }

    /// Of three edits in any order of arrival the latest stands.
    #[test]
    fn the_last_write_wins_in_any_order(
        edits in prop::collection::vec((0_i64..3, "[ab]", "[a-z]{4}"), 3),
        order in Just([0_usize, 1, 2]).prop_shuffle(),
    ) {
        let edit = |i: usize| Edit { at: edits[i].0, client: &edits[i].1, op: &edits[i].2 };
        let latest = (0..3).max_by_key(|i| edit(*i)).unwrap();
        let mut standing = order[0];
        for next in &order[1..] {
            let (server, client) = (json!(standing), json!(next));
            let sides = Sides { theirs: edit(standing), ours: edit(*next), ..sides(&server, &client, None) };
            if resolve(rule(Strategy::LastWriteWins, None), sides) == Resolved::Client {
                standing = *next;
            }
        }
        prop_assert_eq!(edit(standing), edit(latest));
    }
}
