//! Checksums of a scope: a client that lost or corrupted rows finds and repairs exactly those buckets.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use syncline::id::{EntityKey, Seq};
use syncline::protocol::sums::{BucketSet, Sums, bucket};
use syncline::sync::checksums::{Checksum, Checksums};
use syncline::sync::delta::{Cursor, Deltas, Room, Wanted};
use syncline::telemetry::Metrics;
use tokio::runtime::Handle;

use super::delta::{of_kind, wanted};
use crate::support::plan::{commit, delete, project, set, task};
use crate::support::site::Site;

on_both_engines!(
    a_copy_with_faults_is_repaired_bucket_by_bucket,
    one_scan_serves_every_role_and_choice_of_types_until_the_head_moves,
);

type Copy = BTreeMap<EntityKey, Seq>;

fn sums(copy: &Copy) -> Sums {
    let mut sums = Sums::default();
    copy.iter().for_each(|(key, version)| sums.add(key, *version));
    sums
}

fn differing(copy: &Copy, right: &Checksum) -> BTreeSet<u8> {
    let (mine, right) = (sums(copy), &right.sums.0);
    (0..64).filter(|n| mine.0[usize::from(*n)] != right[usize::from(*n)]).collect()
}

async fn a_copy_with_faults_is_repaired_bucket_by_bucket(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops: Vec<_> =
        (0..900).map(|i| set(&format!("o{i}"), &format!("t{i}"), json!({}))).collect();
    commit(&store, &p, &ops).await.unwrap();
    let moved: Vec<_> =
        (0..50).map(|i| set(&format!("m{i}"), &format!("t{i}"), json!({}))).collect();
    commit(&store, &p, &moved).await.unwrap();
    let gone: Vec<_> = (50..60).map(|i| delete(&format!("d{i}"), &format!("t{i}"))).collect();
    commit(&store, &p, &gone).await.unwrap();
    let deltas = Deltas::new(store.clone(), &site.config);
    let checksums = Checksums::new(store.clone(), Metrics::new(), Handle::current());
    let read = async |wanted: Wanted| {
        let room = Room { rows: u32::MAX, bytes: u64::MAX };
        let (mut reading, mut rows) =
            deltas.begin(&p, wanted, Cursor::default(), room).await.unwrap();
        while let Some(more) = reading.next().await.unwrap() {
            rows.extend(more);
        }
        let living = rows.into_iter().filter(|row| !row.deleted);
        living.map(|row| (row.key, row.version)).collect::<Copy>()
    };
    let right = read(wanted(&["*"])).await;
    let checksum = checksums.read(&p, &wanted(&["*"])).await.unwrap();
    assert_eq!((checksum.head, right.len()), (Seq(960), 890));
    assert_eq!(differing(&right, &checksum), BTreeSet::new());

    // A row lost, one old, one that was never there or is long gone.
    let mut copy = right.clone();
    copy.remove(&task("t100")).unwrap();
    copy.insert(task("t7"), Seq(8)).unwrap();
    copy.insert(task("t55"), Seq(56));
    let faulty: BTreeSet<_> = ["t100", "t7", "t55"].map(|id| bucket(&task(id))).into();
    assert_eq!(differing(&copy, &checksum), faulty);

    let list = faulty.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let repair = read(Wanted { buckets: BucketSet::parse(&list), ..wanted(&["*"]) }).await;
    assert!(repair.keys().all(|key| faulty.contains(&bucket(key))));
    assert!(repair.len() < 150, "{} rows for three of 64 buckets", repair.len());
    copy.retain(|key, _| !faulty.contains(&bucket(key)));
    copy.extend(repair);
    assert_eq!(copy, right);
    assert_eq!(differing(&copy, &checksum), BTreeSet::new());
}

async fn one_scan_serves_every_role_and_choice_of_types_until_the_head_moves(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops = [
        set("1", "a", json!({})),
        of_kind("note", set("2", "b", json!({}))),
        of_kind("payroll", set("3", "c", json!({}))),
    ];
    commit(&store, &p, &ops).await.unwrap();
    let metrics = Metrics::new();
    let checksums = Checksums::new(store.clone(), metrics.clone(), Handle::current());
    let scans = || {
        let text = metrics.encode();
        let count = "syncline_checksum_scan_seconds_count ";
        text.lines().find_map(|line| line.strip_prefix(count)?.parse::<u64>().ok()).unwrap()
    };
    let count = |checksum: &Checksum| checksum.sums.0.iter().map(|b| b.count).sum::<u64>();
    let everything = wanted(&["*"]);
    let all = checksums.read(&p, &everything).await.unwrap();
    assert_eq!((all.head, count(&all)), (Seq(3), 3));
    for (reads, types, is) in [
        (&["*"][..], None, 3),
        (&["task", "note"], None, 2),
        (&["task", "note"], Some(&["note", "payroll"][..]), 1),
        (&["*"], Some(&["note", "task"]), 2),
        (&["*"], Some(&["payroll", "unheard_of"]), 1),
        (&["*"], Some(&["unheard_of"]), 0),
    ] {
        let types =
            types.map(|types: &[&str]| types.iter().map(|name| name.parse().unwrap()).collect());
        let some = Wanted { types, ..wanted(reads) };
        assert_eq!(count(&checksums.read(&p, &some).await.unwrap()), is, "{some:?}");
    }
    assert_eq!(scans(), 1);

    let at_once = (0..20).map(|_| checksums.read(&p, &everything));
    commit(&store, &p, &[set("4", "a", json!({}))]).await.unwrap();
    let read = futures_util::future::join_all(at_once).await;
    let first = read[0].as_ref().unwrap();
    assert_eq!((first.head, count(first)), (Seq(4), 3));
    assert_ne!(first.sums, all.sums);
    assert!(read.iter().all(|other| other.as_ref().unwrap().sums == first.sums));
    assert_eq!(scans(), 2);
    let empty = checksums.read(&project("new"), &everything).await.unwrap();
    assert_eq!((empty.head, count(&empty)), (Seq::ZERO, 0));
}
