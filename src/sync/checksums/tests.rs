//! Who scans, who waits, and for whom nothing is done. What the sums are is tested in `tests/it/store`.

use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Duration, timeout};

use super::*;
use crate::auth::Roles;
use crate::config;

/// Checksums of a store on which nobody scans until its `held` is let go of.
struct Queue {
    checksums: Checksums,
    url: String,
    held: Vec<OwnedSemaphorePermit>,
    _dir: TempDir,
}

impl Queue {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("hub.db").display());
        let store = config::Store { url: url.clone(), ..Default::default() };
        let store = Store::open(&store).await.unwrap();
        store.migrate().await.unwrap();
        let checksums = Checksums::new(store, Metrics::new(), Handle::current());
        let held = (0..AT_ONCE).map(|_| checksums.scans.clone().try_acquire_owned().unwrap());
        Self { held: held.collect(), checksums, url, _dir: dir }
    }

    fn ask(&self, project: &ProjectId) -> JoinHandle<Result<Checksum, ChecksumError>> {
        let (checksums, project) = (self.checksums.clone(), project.clone());
        tokio::spawn(async move { checksums.read(&project, &everything()).await })
    }

    async fn wait_until(&self, waiting: usize) {
        let waiting = || self.checksums.waiting.available_permits() == WAITING - waiting;
        eventually(waiting).await;
    }

    fn scans(&self) -> u64 {
        let count = "syncline_checksum_scan_seconds_count ";
        let text = self.checksums.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(count)?.parse().ok()).unwrap()
    }

    async fn move_head(&self) {
        let mut db = SqliteConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql("UPDATE sync_head SET head_seq = head_seq + 1")
            .execute(&mut db)
            .await
            .unwrap();
        db.close().await.unwrap();
    }
}

async fn eventually(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            yield_now().await;
        }
    };
    in_time(wait).await;
}

async fn in_time<T>(it: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), it).await.expect("it should have been so by now")
}

async fn answer(
    asked: JoinHandle<Result<Checksum, ChecksumError>>,
) -> Result<Checksum, ChecksumError> {
    in_time(asked).await.unwrap()
}

fn everything() -> Wanted {
    let roles = config::Roles([("r".to_owned(), config::Role::default())].into());
    let roles = Roles::compile(&roles).unwrap();
    let role = roles.get(&"r".parse().unwrap()).unwrap().clone();
    Wanted { role, types: None, buckets: None }
}

fn project(n: usize) -> ProjectId {
    format!("p{n}").parse().unwrap()
}

#[tokio::test]
async fn nothing_is_scanned_for_who_went_away() {
    let mut queue = Queue::new().await;
    let gone = queue.ask(&project(0));
    queue.wait_until(1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let stays = queue.ask(&project(1));
    queue.wait_until(1).await;
    // One at a time: they would be scanned in their order.
    queue.held.pop();
    answer(stays).await.unwrap();
    assert_eq!(queue.scans(), 1);
}

#[tokio::test]
async fn more_projects_than_may_wait_are_refused_at_once() {
    let mut queue = Queue::new().await;
    let waiting: Vec<_> = (0..WAITING).map(|n| queue.ask(&project(n))).collect();
    queue.wait_until(WAITING).await;
    let one_more = answer(queue.ask(&project(WAITING))).await;
    assert!(matches!(one_more, Err(ChecksumError::Busy)), "{one_more:?}");
    assert_eq!(queue.checksums.metrics.drops.of(Dropped::Checksum).get(), 1);
    // Who asks for what is to be scanned anyway may wait for it.
    let same = queue.ask(&project(0));
    queue.held.clear();
    for asked in waiting.into_iter().chain([same]) {
        answer(asked).await.unwrap();
    }
    assert_eq!(queue.scans(), WAITING as u64);
}

#[tokio::test]
async fn a_scan_serves_all_who_asked_before_it_however_far_the_project_moves() {
    let queue = Queue::new().await;
    let (p, checksums) = (project(0), &queue.checksums);
    checksums.store.open_project(&p).await.unwrap();
    let place = checksums.place(&p);
    let mut kept = place.clone().lock_owned().await;
    let asked: Vec<_> = (0..5).map(|_| queue.ask(&p)).collect();
    // The map, this test twice, and each who asked.
    eventually(|| Arc::strong_count(&place) == 3 + asked.len()).await;
    queue.move_head().await;
    *kept = Some(Arc::new(checksums.scan(&p).await.unwrap()));
    queue.move_head().await;
    drop(kept);
    for asked in asked {
        assert_eq!(answer(asked).await.unwrap().head, Seq(1));
    }
    assert_eq!(queue.scans(), 1);
}
