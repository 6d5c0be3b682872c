//! Pages of the log for those who catch up: read together, and few at once.

use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;

use syncline::config::Limits;
use syncline::id::Seq;
use syncline::store::Store;
use syncline::sync::pages::{Page, Pages};
use tokio::task::JoinSet;

use crate::support::plan::{commit, project, set};
use crate::support::site::Site;
use crate::support::{DEADLINE, eventually};

/// A store whose log holds 20 changes, and a connection beside it that can make its readers wait.
async fn held_up() -> (Site, Store, PgConnection) {
    let mut site = Site::postgres().await;
    site.config.connections = 10;
    let store = site.open().await;
    for n in 0..20 {
        let op = set(&n.to_string(), &format!("t{n}"), json!({}));
        commit(&store, &project("p"), &[op]).await.unwrap();
    }
    let holder = PgConnection::connect(&site.config.url).await.unwrap();
    (site, store, holder)
}

fn pages(store: &Store, catch_ups: usize) -> Arc<Pages> {
    Arc::new(Pages::new(store.clone(), &Limits { catch_ups, ..Limits::default() }))
}

/// How many wait for a lock in this database.
async fn waiting(site: &Site) -> i64 {
    const WAITING: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE NOT l.granted AND d.datname = current_database()";
    let mut db = PgConnection::connect(&site.config.url).await.unwrap();
    sqlx::query_scalar(WAITING).fetch_one(&mut db).await.unwrap()
}

/// Reads pages while the log is locked, looks at how many wait for it, and lets them go on.
async fn read_while_locked(
    (site, pages, holder): (&Site, &Arc<Pages>, &mut PgConnection),
    cursors: impl Iterator<Item = u64>,
    at_once: i64,
) -> Vec<Arc<Page>> {
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE changes IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut reading = JoinSet::new();
    for after in cursors {
        let pages = pages.clone();
        reading.spawn(async move { pages.read(&project("p"), Seq(after)).await.unwrap() });
    }
    eventually("the readers wait", || async { waiting(site).await == at_once }).await;
    // More would come within these.
    for _ in 0..20 {
        assert_eq!(waiting(site).await, at_once, "no more than that are read at once");
    }
    lock.commit().await.unwrap();
    tokio::time::timeout(DEADLINE, reading.join_all()).await.expect("all are read")
}

#[tokio::test]
async fn readers_of_one_page_share_it_and_later_ones_read_anew() {
    let (site, store, mut holder) = held_up().await;
    let pages = pages(&store, 3);
    let shared = read_while_locked((&site, &pages, &mut holder), (0..50).map(|_| 5), 1).await;
    assert!(shared.iter().all(|page| Arc::ptr_eq(page, &shared[0])), "one page for all");
    let seqs: Vec<_> = shared[0].changes.iter().map(|change| change.seq.0).collect();
    assert_eq!((seqs, shared[0].head), ((6..=20).collect::<Vec<_>>(), Seq(20)));

    // They still hold it, but the log has grown.
    commit(&store, &project("p"), &[set("more", "t", json!({}))]).await.unwrap();
    let later = pages.read(&project("p"), Seq(5)).await.unwrap();
    assert_eq!((later.head, later.changes.len()), (Seq(21), 16));
}

#[tokio::test]
async fn no_more_pages_than_configured_are_read_at_once() {
    let (site, store, mut holder) = held_up().await;
    for catch_ups in [2, 5] {
        let pages = pages(&store, catch_ups);
        let at_once = i64::try_from(catch_ups).unwrap();
        let read = read_while_locked((&site, &pages, &mut holder), 0..12, at_once).await;
        let mut firsts: Vec<_> = read.iter().map(|page| page.changes[0].seq.0).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, (1..=12).collect::<Vec<_>>(), "each its own page");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_half_way_leaves_the_page_to_the_others() {
    let (site, store, mut holder) = held_up().await;
    let pages = pages(&store, 1);
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE changes IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let read = |pages: Arc<Pages>| async move { pages.read(&project("p"), Seq(0)).await.unwrap() };
    let first = tokio::spawn(read(pages.clone()));
    eventually("the first reads", || async { waiting(&site).await == 1 }).await;
    let second = tokio::spawn(read(pages.clone()));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    lock.commit().await.unwrap();
    let page = tokio::time::timeout(Duration::from_secs(20), second).await.unwrap().unwrap();
    assert_eq!(page.changes.len(), 20);
}
