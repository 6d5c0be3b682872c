//! Opening, migrating, closing, and coming back after a crash.

use serde_json::json;
use sqlx::Connection;
use syncline::config;
use syncline::id::Seq;
use syncline::store::{RevocationRow, Store, StoreError};

use tokio::process::Command;

use crate::support::hub::{TestHub, token};
use crate::support::plan::{commit, commit_until_answered, project, set};
use crate::support::site::Site;

on_both_engines!(
    migrations_may_run_at_once_and_again,
    a_newer_schema_is_accepted,
    revocations_survive_a_restart,
    what_was_committed_survives_a_handle_that_is_dropped,
    the_command_gives_new_epochs_and_clients_are_told_to_resync,
);

async fn the_command_gives_new_epochs_and_clients_are_told_to_resync(site: Site) {
    let store = site.open().await;
    let [p, q] = ["p", "q"].map(project);
    for project in [&p, &q] {
        commit(&store, project, &[set("a", "1", json!({}))]).await.unwrap();
    }
    let epoch = async |project| store.open_project(project).await.unwrap().epoch;
    let run = async |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
        command.arg("--set").arg(format!("store.url={}", site.config.url));
        let output = command.args(line.split_whitespace()).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let before = [epoch(&p).await, epoch(&q).await];
    assert_eq!(run("epoch new").await, (2, vec![]), "of which projects?");
    let (code, told) = run("epoch new --project q --project none").await;
    assert_eq!((code, told), (1, vec![format!("{} q", epoch(&q).await)]));
    assert_eq!(epoch(&p).await, before[0]);
    assert_ne!(epoch(&q).await, before[1]);
    let (code, told) = run("epoch new --all").await;
    let now = [epoch(&p).await, epoch(&q).await];
    assert_eq!((code, told), (0, vec![format!("{} p", now[0]), format!("{} q", now[1])]));
    assert!(before.iter().all(|epoch| !now.contains(epoch)));

    let hub = TestHub::start_with(|config| config.store = site.config.clone()).await;
    for (epoch, resync) in [(before[0], json!("epoch_changed")), (now[0], json!(null))] {
        let path = format!("/v1/projects/p/changes?since=1&epoch={epoch}");
        let token = token("ana", &json!({ "p": "viewer" }));
        let answer = reqwest::Client::new().get(hub.http(&path)).bearer_auth(token).send().await;
        let answer: serde_json::Value = answer.unwrap().json().await.unwrap();
        assert_eq!((&answer["resync"], &answer["epoch"]), (&resync, &json!(now[0])));
    }
    // Ana has seen position 2 of the sequence that was lost; the backup ended with 1.
    let mut was = json!(null);
    for (op, base, outcome) in [("bo-1", 1, "applied"), ("ana-1", 2, "superseded")] {
        let user = op.split_once('-').unwrap().0;
        let fields = json!({ "title": user });
        let op = json!({ "op_id": op, "kind": "update", "type": "task", "id": "1", "base": base,
            "edited_at": 1, "fields": fields });
        let asked = reqwest::Client::new().post(hub.http("/v1/projects/p/ops"));
        let asked = asked.bearer_auth(token(user, &json!({ "p": "editor" })));
        let answer = asked.json(&json!({ "ops": [op] })).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(answer["verdicts"][0]["outcome"], outcome, "after {was}: {answer}");
        was = answer;
    }
    hub.stop().await;
}

async fn migrations_may_run_at_once_and_again(site: Site) {
    let opening = (0..4).map(|_| {
        let config = site.config.clone();
        tokio::spawn(async move { Store::open(&config).await.unwrap() })
    });
    let mut stores = Vec::new();
    for store in opening.collect::<Vec<_>>() {
        stores.push(store.await.unwrap());
    }
    assert!(!stores[0].schema_is_current().await.unwrap());
    let running = stores.iter().cloned().map(|s| tokio::spawn(async move { s.migrate().await }));
    for result in running.collect::<Vec<_>>() {
        result.await.unwrap().unwrap();
    }
    for store in &stores {
        assert!(store.schema_is_current().await.unwrap());
        store.migrate().await.unwrap();
        store.ping().await.unwrap();
    }
    commit(&stores[3], &project("p"), &[set("a", "1", json!({}))]).await.unwrap();
}

async fn a_newer_schema_is_accepted(site: Site) {
    const NEWER: &str = "INSERT INTO _sqlx_migrations
        (version, description, success, checksum, execution_time) SELECT
        9999, 'of a later release', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    let store = site.open().await;
    if store.groups_projects() {
        let mut db = sqlx::SqliteConnection::connect(&site.config.url).await.unwrap();
        sqlx::query(NEWER).execute(&mut db).await.unwrap();
    } else {
        let mut db = sqlx::PgConnection::connect(&site.config.url).await.unwrap();
        sqlx::query(NEWER).execute(&mut db).await.unwrap();
    }
    store.migrate().await.unwrap();
    assert!(store.schema_is_current().await.unwrap());
}

async fn revocations_survive_a_restart(site: Site) {
    let row = |body: &str, expires_at| RevocationRow { body: body.into(), expires_at };
    let store = site.open().await;
    store.revoke(&row(r#"{"user":"ana"}"#, 200)).await.unwrap();
    store.revoke(&row(r#"{"user":"ben"}"#, 100)).await.unwrap();
    store.revoke(&row(r#"{"user":"ana"}"#, 300)).await.unwrap();
    store.revoke(&row(r#"{"user":"ana"}"#, 250)).await.unwrap();
    store.close().await;

    let store = site.open().await;
    let mut all = store.revocations(99).await.unwrap();
    all.sort_by_key(|r| r.expires_at);
    assert_eq!(all, [row(r#"{"user":"ben"}"#, 100), row(r#"{"user":"ana"}"#, 300)]);
    assert_eq!(store.revocations(100).await.unwrap().len(), 1);
    assert_eq!(store.purge_revocations(100).await.unwrap(), 1);
    assert_eq!(store.revocations(0).await.unwrap().len(), 1);
}

async fn what_was_committed_survives_a_handle_that_is_dropped(site: Site) {
    let p = project("p");
    let store = site.open().await;
    let before = commit(&store, &p, &[set("a", "1", json!({}))]).await.unwrap();
    drop(store);
    let store = site.open().await;
    let again = commit(&store, &p, &[set("a", "1", json!({}))]).await.unwrap();
    assert_eq!((again.head, again.epoch), (Seq(1), before.epoch));
    assert_eq!(again.answers[0].verdict().get(), before.answers[0].verdict().get());
}

/// The files as a process killed at this moment leaves them: nothing closed, nothing checkpointed.
#[tokio::test]
async fn sqlite_recovers_from_the_files_a_killed_process_leaves() {
    let site = Site::sqlite();
    let store = site.open().await;
    let p = project("p");
    for n in 0..5 {
        commit(&store, &p, &[set(&format!("o{n}"), "t", json!({"n": n}))]).await.unwrap();
    }
    let wreck = site.directory.path().join("wreck");
    std::fs::create_dir(&wreck).unwrap();
    for name in ["syncline.db", "syncline.db-wal"] {
        std::fs::copy(site.directory.path().join("data").join(name), wreck.join(name)).unwrap();
    }
    let url = format!("sqlite:{}/syncline.db", wreck.display());
    let revived = Store::open(&config::Store { url, ..site.config.clone() }).await.unwrap();
    let page = revived.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap();
    assert_eq!((page.head, page.entries.len()), (Seq(5), 5));
    assert_eq!(commit(&revived, &p, &[set("o5", "t", json!({}))]).await.unwrap().head, Seq(6));
}

#[tokio::test]
async fn postgres_connections_that_were_cut_are_replaced() {
    let site = Site::postgres().await;
    let store = site.open().await;
    let p = project("p");
    commit(&store, &p, &[set("a", "1", json!({}))]).await.unwrap();
    let mut admin = sqlx::PgConnection::connect(&site.config.url).await.unwrap();
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    assert_eq!(commit_until_answered(&store, &p, &[set("b", "1", json!({}))]).await.head, Seq(2));
}

#[tokio::test]
async fn a_url_that_cannot_work_is_explained_without_its_password() {
    let open = async |url: &str| {
        let config = config::Store { url: url.into(), ..Default::default() };
        Store::open(&config).await.unwrap_err()
    };
    let secret = "hunter2";
    let refused = open(&format!("postgres://ana:{secret}@127.0.0.1:1/x")).await;
    assert!(refused.retryable(), "{refused}");
    for error in [
        refused,
        open(&format!("mysql://ana:{secret}@localhost/x")).await,
        open(&format!("postgres://ana:{secret}@127.0.0.1:port/x")).await,
        open("sqlite::memory:").await,
        open("nonsense").await,
    ] {
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
        assert!(error.retryable() || matches!(error, StoreError::Config(_)), "{error}");
    }
}
