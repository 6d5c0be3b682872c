//! Reading: a page and its head are of one snapshot, nothing is lost between pages.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use syncline::id::{Epoch, ProjectId, Seq};
use syncline::store::Store;
use syncline::store::retention::{Ages, Past};

use crate::support::plan::{commit, commit_until_answered, delete, project, set, task};
use crate::support::site::Site;

on_both_engines!(
    a_page_agrees_with_its_head_while_others_write,
    a_delta_agrees_with_its_head_while_others_write,
    an_entity_that_moves_while_paging_is_not_lost,
    pages_end_where_they_should,
    heads_of_many_projects_are_one_query,
    a_purge_of_the_log_raises_the_floor_and_leaves_the_rest,
);

/// Writes the same entities over and over: each commit moves all of them ahead, the last one to the head.
async fn write(writer: Store, project: ProjectId, commits: u64, ops: u64) {
    for n in 0..commits {
        let ops: Vec<_> =
            (0..ops).map(|i| set(&format!("{n}-{i}"), &format!("t{i}"), json!({"n": n}))).collect();
        commit_until_answered(&writer, &project, &ops).await;
    }
}

async fn a_page_agrees_with_its_head_while_others_write(site: Site) {
    const COMMITS: u64 = 40;
    const OPS: u64 = 5;
    const LIMIT: u32 = 7;
    let (reader, p) = (site.open().await, project("p"));
    let writing = tokio::spawn(write(site.open().await, p.clone(), COMMITS, OPS));
    let mut cursor = Seq::ZERO;
    while cursor < Seq(COMMITS * OPS) {
        let page = reader.page(&p, cursor, LIMIT, u64::MAX).await.unwrap();
        for entry in &page.entries {
            cursor = cursor.next();
            assert_eq!(entry.seq, cursor);
        }
        assert!(cursor <= page.head);
        assert_eq!(page.head.0 % OPS, 0, "half a commit is visible");
        if page.entries.len() < LIMIT as usize {
            assert_eq!(cursor, page.head, "a change below the head is missing");
        }
    }
    writing.await.unwrap();
}

/// The head is the cursor of a page that is not full: were it read a moment later, whatever moved between would
/// be skipped.
async fn a_delta_agrees_with_its_head_while_others_write(site: Site) {
    const COMMITS: u64 = 60;
    const OPS: u64 = 5;
    let (reader, p) = (site.open().await, project("p"));
    let writing = tokio::spawn(write(site.open().await, p.clone(), COMMITS, OPS));
    let (mut cursor, mut seen) = (Seq::ZERO, Seq::ZERO);
    while cursor.min(seen) < Seq(COMMITS * OPS) {
        let page = reader.delta(&p, cursor, 100, u64::MAX).await.unwrap();
        let last = page.rows.last().map_or(cursor, |row| row.version);
        assert_eq!(page.head, last, "a row below the head is missing");
        cursor = page.head;
        let keys = reader.delta_keys(&p, seen, 100).await.unwrap();
        let last = keys.rows.last().map_or(seen, |(_, version)| *version);
        assert_eq!(keys.head, last, "a key below the head is missing");
        seen = keys.head;
    }
    writing.await.unwrap();
}

async fn an_entity_that_moves_while_paging_is_not_lost(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let create: Vec<_> =
        (0..30).map(|i| set(&format!("c{i}"), &format!("t{i}"), json!({"v": 0}))).collect();
    commit(&store, &p, &create).await.unwrap();

    let (mut copy, mut cursor, mut pages) = (HashMap::new(), Seq::ZERO, 0);
    loop {
        let page = store.delta(&p, cursor, 10, u64::MAX).await.unwrap();
        assert!(page.rows.is_sorted_by_key(|row| row.version));
        for row in &page.rows {
            copy.insert(row.key.id.to_string(), row.clone());
        }
        pages += 1;
        if pages == 1 {
            // One that was read, one that was not, one that goes away.
            let moves = [
                set("m1", "t0", json!({"v": 1})),
                set("m2", "t29", json!({"v": 1})),
                delete("m3", "t28"),
            ];
            commit(&store, &p, &moves).await.unwrap();
        }
        if page.rows.len() < 10 {
            assert_eq!(page.head, Seq(33));
            break;
        }
        cursor = page.rows.last().unwrap().version;
    }
    assert_eq!(copy.len(), 30);
    for (id, row) in &copy {
        let stored = store.entity(&p, &task(id)).await.unwrap().unwrap();
        assert_eq!((row.version, row.deleted), (stored.version, stored.deleted), "{id}");
        assert_eq!(row.fields.get(), serde_json::to_string(&stored.fields).unwrap(), "{id}");
    }
    assert!(copy["t28"].deleted);
    assert_eq!(copy["t0"].fields.get(), r#"{"v":1}"#);
}

async fn pages_end_where_they_should(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let empty = store.page(&p, Seq(5), 10, 10).await.unwrap();
    assert_eq!((empty.head, empty.floor, empty.entries.len()), (Seq::ZERO, Seq::ZERO, 0));
    let none = store.delta(&p, Seq::ZERO, 10, 10).await.unwrap();
    assert!(none.rows.is_empty() && !none.cut && none.epoch == empty.epoch);
    let none = store.delta_keys(&project("q"), Seq::ZERO, 10).await.unwrap();
    assert!(none.rows.is_empty() && none.head == Seq::ZERO);

    let ops: Vec<_> = (0..10)
        .map(|i| set(&format!("o{i}"), &format!("t{i}"), json!({"x": "y".repeat(92)})))
        .collect();
    commit(&store, &p, &ops).await.unwrap();
    let length = |after, limit, bytes| {
        let (store, p) = (&store, &p);
        async move {
            let page = store.page(p, Seq(after), limit, bytes).await.unwrap();
            let delta = store.delta(p, Seq(after), limit, bytes).await.unwrap();
            assert_eq!(page.entries.len(), delta.rows.len());
            let present = (10 - after).min(limit.into());
            assert_eq!(delta.cut, (page.entries.len() as u64) < present);
            assert_eq!((page.head, delta.head), (Seq(10), Seq(10)));
            let keys = store.delta_keys(p, Seq(after), limit).await.unwrap();
            let versions: Vec<_> = keys.rows.iter().map(|(_, version)| *version).collect();
            assert_eq!((keys.head, versions.len() as u64), (Seq(10), present));
            let rows = store.delta_rows(p, &versions, bytes).await.unwrap();
            assert_eq!((rows.cut, rows.rows.len()), (delta.cut, delta.rows.len()));
            assert!(
                rows.rows
                    .iter()
                    .map(|row| row.version)
                    .eq(versions.into_iter().take(rows.rows.len()))
            );
            page.entries.len()
        }
    };
    // Each is 100 bytes.
    assert_eq!(length(0, 100, u64::MAX).await, 10);
    assert_eq!(length(4, 3, u64::MAX).await, 3);
    assert_eq!(length(0, 100, 0).await, 1);
    assert_eq!(length(0, 100, 100).await, 1);
    assert_eq!(length(0, 100, 101).await, 2);
    assert_eq!(length(7, 100, 1000).await, 3);
    let beyond = store.page(&p, Seq(u64::MAX), 10, 10).await.unwrap();
    assert_eq!((beyond.head, beyond.entries.len()), (Seq(10), 0));
}

async fn heads_of_many_projects_are_one_query(site: Site) {
    let store = site.open().await;
    let [a, b, c] = ["a", "b", "c"].map(project);
    commit(&store, &a, &[set("1", "t", json!({})), set("2", "t", json!({}))]).await.unwrap();
    let opened = store.open_project(&b).await.unwrap();
    assert_eq!((opened.head, opened.floor), (Seq::ZERO, Seq::ZERO));
    assert_eq!(store.open_project(&b).await.unwrap(), opened);

    let mut heads = store.heads(&[c.clone(), b.clone(), a.clone()]).await.unwrap();
    heads.sort_by_key(|(project, ..)| project.clone());
    let epoch = store.open_project(&a).await.unwrap().epoch;
    assert_eq!(heads, [(a.clone(), epoch, Seq(2)), (b, opened.epoch, Seq::ZERO)]);
    assert_ne!(epoch, opened.epoch);
    assert!(store.heads(&[]).await.unwrap().is_empty());

    let restored = Epoch::random();
    assert!(store.set_epoch(&a, restored).await.unwrap());
    assert!(!store.set_epoch(&c, restored).await.unwrap(), "a sequence that has not begun");
    let beyond = Seq(1_000_000_000_002);
    assert_eq!(
        store.heads(std::slice::from_ref(&a)).await.unwrap(),
        [(a.clone(), restored, beyond)]
    );
    let head = store.open_project(&a).await.unwrap();
    assert_eq!((head.head, head.floor), (beyond, beyond), "nobody reads across what was lost");
}

async fn a_purge_of_the_log_raises_the_floor_and_leaves_the_rest(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops: Vec<_> = (0..6).map(|i| set(&format!("o{i}"), &format!("t{i}"), json!({}))).collect();
    commit(&store, &p, &ops).await.unwrap();
    let lease = store.lease("retention", "test", Duration::from_secs(60)).await.unwrap().unwrap();
    let ages = Ages { keep: Duration::ZERO, consumers: Duration::ZERO, max_lag: Duration::MAX };
    let after_purge = async |rows| {
        store.purge_past(&lease, Past::Log, &p, ages, rows).await.unwrap();
        let page = store.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap();
        (page.floor.0, page.entries.len(), page.head.0)
    };
    assert_eq!(after_purge(2).await, (2, 4, 6));
    assert_eq!(after_purge(99).await, (6, 0, 6));
    assert_eq!(after_purge(99).await, (6, 0, 6));
    assert_eq!(store.open_project(&p).await.unwrap().floor, Seq(6));
    assert_eq!(store.delta(&p, Seq::ZERO, 10, u64::MAX).await.unwrap().rows.len(), 6);
    // Verdicts outlive the log.
    assert!(commit(&store, &p, &ops).await.unwrap().entries.is_empty());
    assert_eq!(commit(&store, &p, &[set("new", "t", json!({}))]).await.unwrap().head, Seq(7));
    // What a restored log holds nobody reads across the positions it leaves out; it goes all the same.
    assert!(store.set_epoch(&p, Epoch::random()).await.unwrap());
    let due = async || store.due(Past::Log, Duration::ZERO, "", 10).await.unwrap();
    assert_eq!(due().await, std::slice::from_ref(&p));
    store.purge_past(&lease, Past::Log, &p, ages, 99).await.unwrap();
    assert_eq!(due().await, []);
}
