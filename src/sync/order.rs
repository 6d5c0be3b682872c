//! The order in which one request's operations are decided: urgent ones first, but never an operation
//! before an earlier one on the same entity. Pure.
//!
//! The unit is a group, or an operation alone. Whoever has to go before an urgent unit is as urgent.
//!
//! Which id a local name stands for only the store knows, that of a name which the request creates too, for the
//! request may be sent again: so it may be any id of its type, and no two names are the same one.

use std::collections::HashMap;

use crate::id::{EntityRef, EntityType};
use crate::protocol::op::Lane;
use crate::store::PendingOp;

/// What an operation is about, or refers to.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Named {
    One(EntityRef),
    /// Whichever has a local name.
    AnyLocal,
    /// Whichever is named by its id.
    AnyId,
}

/// Sorts operations by urgency. `places` goes with them: what each one's place in the request is.
pub(super) fn by_priority(ops: Vec<PendingOp>, places: Vec<usize>) -> (Vec<PendingOp>, Vec<usize>) {
    if ops.iter().all(|op| op.op.priority == Lane::Normal) {
        return (ops, places);
    }
    let mut units: Vec<Vec<(PendingOp, usize)>> = Vec::new();
    for (op, place) in ops.into_iter().zip(places) {
        match units.last_mut() {
            Some(unit) if op.joined => unit.push((op, place)),
            _ => units.push(vec![(op, place)]),
        }
    }
    let ranks = ranks(&units);
    let mut ranked: Vec<_> = ranks.into_iter().zip(units).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().flat_map(|(_, unit)| unit).unzip()
}

/// How urgent each unit is, 0 the most: as its most urgent operation, or as what has to follow it.
fn ranks(units: &[Vec<(PendingOp, usize)>]) -> Vec<u8> {
    let mut wanted: HashMap<(&EntityType, Named), u8> = HashMap::new();
    let mut ranks = vec![0; units.len()];
    for (unit, place) in units.iter().zip(&mut ranks).rev() {
        let named: Vec<_> = unit.iter().flat_map(|(op, _)| named(op)).collect();
        let own = unit.iter().map(|(op, _)| op.op.priority.rank());
        let followed = named.iter().flat_map(|(kind, one)| {
            let other = if is_local(one) { Named::AnyId } else { Named::AnyLocal };
            [(*kind, Named::One(one.clone())), (*kind, other)]
        });
        let later = followed.filter_map(|name| wanted.get(&name).copied());
        *place = own.chain(later).min().unwrap_or(Lane::Normal.rank());
        for (kind, one) in named {
            let any = if is_local(&one) { Named::AnyLocal } else { Named::AnyId };
            for name in [Named::One(one), any] {
                wanted.entry((kind, name)).and_modify(|w| *w = (*w).min(*place)).or_insert(*place);
            }
        }
    }
    ranks
}

/// The entities an operation is about or refers to, as it names them.
fn named(op: &PendingOp) -> impl Iterator<Item = (&EntityType, EntityRef)> {
    let locals = op.locals.iter().map(|(kind, id)| (kind, EntityRef::Local(id.clone())));
    std::iter::once((&op.op.entity_type, op.op.id.clone())).chain(locals)
}

fn is_local(one: &EntityRef) -> bool {
    matches!(one, EntityRef::Local(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Actor;
    use proptest::prelude::*;
    use serde_json::json;

    fn op(id: usize, entity: &str, priority: &str, joined: bool) -> PendingOp {
        let op = json!({
            "op_id": id.to_string(), "kind": "update", "type": "task", "id": entity, "priority": priority,
        });
        let actor = Actor { user: "u".into(), client: "c".into() };
        let op = serde_json::from_value(op).unwrap();
        PendingOp { joined, ..PendingOp::new(op, actor, [0; 32]) }
    }

    fn order(ops: &[PendingOp]) -> Vec<usize> {
        by_priority(ops.to_vec(), (0..ops.len()).collect()).1
    }

    #[test]
    fn urgent_operations_go_first_with_what_they_need() {
        let ops = [
            op(0, "a", "normal", false),
            op(1, "b", "normal", false),
            op(2, "c", "high", false),
            op(3, "b", "critical", false),
        ];
        assert_eq!(order(&ops), [1, 3, 2, 0]);
    }

    #[test]
    fn a_group_stays_together_and_carries_what_it_needs_along() {
        let ops = [
            op(0, "a", "normal", false),
            op(1, "b", "normal", false),
            op(2, "a", "normal", true),
            op(3, "x", "normal", false),
            op(4, "b", "critical", false),
        ];
        assert_eq!(order(&ops), [0, 1, 2, 4, 3]);
    }

    #[test]
    fn a_name_may_be_any_id_of_its_type_and_no_other_name() {
        let [x, a, b, id] = ["x", "local:a", "local:b", "0192f0c1"];
        let normal = |n, entity| op(n, entity, "normal", false);
        let urgent = |entity| op(2, entity, "critical", false);
        assert_eq!(order(&[normal(0, x), normal(1, a), urgent(id)]), [0, 1, 2]);
        let mut again = normal(1, a);
        again.op.kind = crate::protocol::op::OpKind::Create;
        assert_eq!(
            order(&[normal(0, x), again, urgent(id)]),
            [0, 1, 2],
            "it may have its id since"
        );
        assert_eq!(order(&[normal(0, a), normal(1, b), urgent(a)]), [0, 2, 1]);
        assert_eq!(
            order(&[normal(0, x), normal(1, b), urgent(a)]),
            [0, 2, 1],
            "`x` may be `local:a`"
        );
    }

    proptest! {
        #[test]
        fn no_operation_overtakes_another_on_its_entity(
            ops in prop::collection::vec(
                ("[a-d]", prop::sample::select(vec!["critical", "high", "normal"]), any::<bool>()),
                0..30,
            ),
        ) {
            let ops: Vec<_> = ops
                .iter()
                .enumerate()
                .map(|(i, (entity, priority, joined))| op(i, entity, priority, *joined && i > 0))
                .collect();
            let order = order(&ops);
            let position = |i: usize| order.iter().position(|at| *at == i).unwrap();
            prop_assert_eq!(order.len(), ops.len());
            for i in 0..ops.len() {
                for j in i + 1..ops.len() {
                    if ops[i].op.id == ops[j].op.id {
                        prop_assert!(position(i) < position(j), "{} was overtaken by {}", i, j);
                    }
                }
                if ops[i].joined {
                    prop_assert_eq!(position(i), position(i - 1) + 1);
                }
            }
        }
    }
}
