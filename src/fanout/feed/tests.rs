use proptest::prelude::*;
use uuid::Uuid;

use super::super::{Feeds, ShardQueue};
use super::*;

const EPOCH: Epoch = Epoch(Uuid::from_u128(1));

fn change(seq: u64) -> Arc<EncodedChange> {
    let entity = EntityKey { kind: "task".parse().unwrap(), id: "1".parse().unwrap() };
    Arc::new(EncodedChange::from_frame(Seq(seq), entity, Bytes::from(vec![b'x'; 100])))
}

fn feeds(limit: usize) -> (Feeds, ShardQueue, Arc<Feed>) {
    let (handle, queue) = ShardHandle::channel();
    let (feeds, _created) = Feeds::new([handle].into(), limit);
    let feed = feeds.watch(&"p".parse().unwrap(), 0);
    (feeds, queue, feed)
}

fn delivered(queue: &mut ShardQueue) -> Vec<u64> {
    let mut seqs = Vec::new();
    while let Some(message) = queue.try_recv() {
        if let ToShard::Changes(_, changes) = message {
            seqs.extend(changes.iter().map(|c| c.seq.0));
        }
    }
    seqs
}

proptest! {
    /// Whatever order and however often changes arrive, each passes once, in order, without a hole.
    #[test]
    fn passes_each_change_once_in_order(
        arrivals in prop::collection::vec(1u64..40, 0..200),
        open_at in 0usize..50,
        head in 0u64..5,
    ) {
        let (_feeds, mut queue, feed) = feeds(1 << 20);
        let mut seen = std::collections::BTreeSet::new();
        for (turn, seq) in arrivals.iter().enumerate() {
            if turn == open_at {
                feed.open(EPOCH, Seq(head));
            }
            feed.offer(EPOCH, [change(*seq)]);
            seen.insert(*seq);
        }
        feed.open(EPOCH, Seq(head));
        let expected: Vec<u64> = (head + 1..).take_while(|seq| seen.contains(seq)).collect();
        prop_assert_eq!(delivered(&mut queue), expected.clone());
        prop_assert_eq!(feed.head().unwrap().1.0, head + expected.len() as u64);
        prop_assert_eq!(feed.has_gap(), seen.iter().any(|seq| *seq > head + expected.len() as u64));
    }
}

#[test]
fn recent_changes_are_bounded_and_dense() {
    let (_feeds, _queue, feed) = feeds(1000);
    feed.open(EPOCH, Seq(0));
    feed.offer(EPOCH, (1..=50).map(change));
    assert!(feed.recent(Seq(39)).is_none());
    let recent = feed.recent(Seq(40)).unwrap();
    assert_eq!(recent.iter().map(|c| c.seq.0).collect::<Vec<_>>(), (41..=50).collect::<Vec<_>>());
    assert_eq!(feed.recent(Seq(50)).unwrap().len(), 0);
}

#[test]
fn a_full_shard_gets_the_rest_later_or_is_told_it_missed_some() {
    let (_feeds, mut queue, feed) = feeds(1000);
    feed.open(EPOCH, Seq(0));
    let room = Arc::new("room:p:x".parse().unwrap());
    while feed.event(&room, &Bytes::new(), None) == 0 {}
    feed.offer(EPOCH, (1..=5).map(change));
    assert_eq!(delivered(&mut queue), [] as [u64; 0]);
    feed.flush();
    assert_eq!(delivered(&mut queue), [1, 2, 3, 4, 5]);

    while feed.event(&room, &Bytes::new(), None) == 0 {}
    feed.offer(EPOCH, (6..=60).map(change));
    while queue.try_recv().is_some() {}
    feed.flush();
    assert!(matches!(queue.try_recv(), Some(ToShard::Overflow(_))));
    feed.offer(EPOCH, [change(61)]);
    assert_eq!(delivered(&mut queue), [61]);
}

#[test]
fn a_new_epoch_restarts_the_feed_and_says_so() {
    let (_feeds, mut queue, feed) = feeds(1000);
    feed.open(EPOCH, Seq(9));
    let restored = Epoch(Uuid::from_u128(2));
    assert_eq!(feed.offer(restored, [change(4)]), Offered::OtherEpoch);
    feed.restart(restored, Seq(3));
    assert!(matches!(queue.try_recv(), Some(ToShard::NewEpoch(_, e, Seq(3))) if e == restored));
    assert_eq!(feed.offer(restored, [change(4)]), Offered::InOrder);
    assert_eq!(delivered(&mut queue), [4]);
}

#[test]
fn a_full_shard_is_told_of_a_new_epoch_as_soon_as_it_can_be() {
    let (_feeds, mut queue, feed) = feeds(1000);
    feed.open(EPOCH, Seq(9));
    let room = Arc::new("room:p:x".parse().unwrap());
    while feed.event(&room, &Bytes::new(), None) == 0 {}
    let restored = Epoch(Uuid::from_u128(2));
    feed.restart(restored, Seq(3));
    feed.offer(restored, [change(4)]);
    while queue.try_recv().is_some() {}
    feed.flush();
    // Not that it only missed some: its readers would go on from cursors of the log that is gone.
    let told = queue.try_recv();
    assert!(matches!(told, Some(ToShard::NewEpoch(_, e, Seq(4))) if e == restored), "{told:?}");
    feed.offer(restored, [change(5)]);
    assert_eq!(delivered(&mut queue), [5]);
}

#[test]
fn a_feed_without_readers_is_retired_after_a_while() {
    let (feeds, _queue, feed) = feeds(1000);
    let long_ago = Instant::now();
    feeds.unwatch(feed.project(), 0);
    assert_eq!(feeds.retire(long_ago - std::time::Duration::from_secs(1)), []);
    assert_eq!(feeds.retire(Instant::now()), [feed.project().clone()]);
    assert!(feeds.get(feed.project()).is_none());
}
