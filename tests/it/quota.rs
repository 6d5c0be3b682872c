//! Rate limits of one user over several instances.

use syncline::bus::RedisLink;
use syncline::config;
use syncline::id::UserId;
use syncline::quota::{Kind, Quota};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::eventually;
use crate::support::redis::Server;

fn quota(url: &str) -> (Quota, DropGuard) {
    let limits = config::Limits { user_ops_per_second: 50, ..config::Limits::default() };
    let config = config::Bus { url: url.to_owned(), ..config::Bus::default() };
    let quota = Quota::redis(&limits, "test", RedisLink::connect(&config).unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(quota.clone().run(stop.clone()));
    (quota, stop.drop_guard())
}

#[tokio::test]
async fn what_a_user_takes_on_one_instance_counts_on_the_other() {
    let mut server = Server::start().await;
    let ((a, _stop_a), (b, _stop_b)) = (quota(&server.url()), quota(&server.url()));
    let (ana, ben) = (UserId::new("ana").unwrap(), UserId::new("ben").unwrap());
    // Both know the user before the burst: what came before an instance knew her is forgiven.
    a.take(&ana, Kind::Ops, 1).unwrap();
    b.take(&ana, Kind::Ops, 1).unwrap();
    eventually("both have told what they took", || async {
        server.ask::<Option<u64>>("HGET test:{ana}:quota ops").await.unwrap() == Some(2)
    })
    .await;
    eventually("a is full again and takes more than a burst", || async {
        let _ = b.take(&ana, Kind::Ops, 0);
        a.take(&ana, Kind::Ops, 1000).is_ok()
    })
    .await;
    // Taking nothing asks whether there is a debt: b's own takings never lead into one.
    eventually("ana is over her limit on the other instance", || async {
        b.take(&ana, Kind::Ops, 0).is_err()
    })
    .await;
    assert_eq!(b.take(&ana, Kind::Broadcasts, 1), Ok(()));
    assert_eq!(b.take(&ben, Kind::Ops, 100), Ok(()));

    server.kill().await;
    eventually("the limit is local again", || async { b.take(&ana, Kind::Ops, 100).is_ok() }).await;
}
