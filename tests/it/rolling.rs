//! An upgrade: the instances are restarted one after another, and nobody loses anything.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{Client, End};
use crate::support::crowd::{Crowd, PROJECT, hide_payroll, seed};
use crate::support::hub::token;
use crate::support::process::{Cluster, log_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_and_repeats_nothing() {
    let mut cluster = Cluster::start(|config| {
        hide_payroll(config);
        config.server.drain_spread = Duration::from_secs(1);
        config.server.drain_deadline = Duration::from_secs(15);
    })
    .await;
    let mut crowd = Crowd::new(cluster.urls(), seed());
    crowd.read_all_ways();
    for _ in 0..4 {
        crowd.write(400, Duration::from_millis(200));
    }
    let rolling = async {
        for at in 0..cluster.instances.len() {
            drain(&mut cluster, at).await;
            cluster.instances[at].restart().await;
            cluster.linked().await;
        }
        &cluster
    };
    let (cluster, ()) = tokio::join!(rolling, crowd.written());
    crowd.verify(log_of(&cluster.store().await, PROJECT).await).await;
}

/// Asks an instance to stop, and looks at how it does.
async fn drain(cluster: &mut Cluster, at: usize) {
    let instance = &mut cluster.instances[at];
    let user = token("witness", &json!({ PROJECT: "viewer" }));
    let mut witness = Client::connect(&instance.ws(), &user).await;
    assert_eq!(instance.ready().await, Some(true));
    instance.terminate().await;
    let goodbye = witness.expect("goodbye").await;
    assert_ne!(instance.ready().await, Some(true), "readiness fails before clients are sent away");
    assert!(goodbye["reconnect_in_ms"].as_u64().unwrap() <= 1000, "{goodbye}");
    assert_eq!(goodbye["resume"], true);
    assert_eq!(witness.end().await.1, End::Closed(4000));
    let exit = instance.exited().await;
    assert!(exit.success(), "{exit}");
    // Otherwise it would name what did not finish by its deadline.
    let log = instance.log();
    assert!(log.contains("\"message\":\"stopped\""), "{log}");
}
