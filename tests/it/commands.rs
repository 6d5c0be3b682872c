//! `check-config` and `migrate` as operators and deployments run them: what they say, and their exit codes.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use sqlx::{Connection, PgConnection, SqliteConnection};
use syncline::config::Config;
use syncline::store::Store;
use tokio::process::Command;

use crate::support::client::{Client, create};
use crate::support::hub;
use crate::support::process::Process;
use crate::support::site::Site;

/// How a command ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program in a directory, with this environment and no other.
async fn run(dir: &Path, env: &[(&str, &str)], words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.current_dir(dir).env_clear().envs(env.iter().copied()).args(words);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("it ends by itself");
    Ran { code, out: text(output.stdout), err: text(output.stderr) }
}

/// Stands in every secret of these tests.
const CANARY: &str = "canary";

/// A configuration with a secret wherever there can be one.
fn secretive() -> String {
    let long = format!("{CANARY}-").repeat(8);
    format!(
        "[auth]\nadmin_token = \"{long}admin\"\n\
         [[auth.hmac]]\nalgorithm = \"HS256\"\nsecret = \"{long}jwt\"\n\
         [[auth.jwks]]\nurl = \"https://u:{CANARY}@id.example/keys?token={CANARY}\"\n\
         [[ingest.sources]]\nname = \"billing\"\nsecret = \"{long}source\"\n\
         [push.expo]\nenabled = true\naccess_token = \"{long}expo\"\n\
         [store]\nurl = \"postgres://syncline:{CANARY}@db.example/syncline\"\n\
         [bus]\nurl = \"redis://:{CANARY}@redis.example\"\n"
    )
}

#[tokio::test]
async fn a_good_configuration_is_said_to_be_good_and_shown_without_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("syncline.toml"), secretive()).unwrap();
    // The file is found where the program is started.
    let checked = run(dir.path(), &[], &["check-config"]).await;
    assert_eq!((checked.code, &*checked.err), (0, ""));
    assert_eq!(checked.out, "syncline.toml: the configuration is valid\n");

    let shown = run(dir.path(), &[], &["check-config", "--print"]).await;
    assert_eq!((shown.code, &*shown.err), (0, ""));
    assert!(!shown.out.contains(CANARY), "{}", shown.out);
    let config: Config = toml::from_str(&shown.out).unwrap();
    assert_eq!(config.store.url, "postgres://syncline:***@db.example/syncline");
    assert_eq!(config.auth.hmac[0].secret, "***");

    // What is doubtful is told, and stops nothing.
    let env = [("SYNCLINE_STORE__URL", "sqlite:hub.db")];
    let doubtful = run(dir.path(), &env, &["check-config"]).await;
    assert_eq!(doubtful.code, 0);
    assert!(doubtful.err.starts_with("warning: bus.url"), "{}", doubtful.err);
    assert!(!doubtful.err.contains(CANARY), "{}", doubtful.err);
}

#[tokio::test]
async fn everything_wrong_is_told_at_once_with_its_place_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = format!(
        "[auth]\nadmin_token = \"{CANARY}\"\n\
         [[auth.hmac]]\nalgorithm = \"HS256\"\nsecret = \"{CANARY}\"\nsecrte = \"{CANARY}\"\n\
         [[ingest.sources]]\nname = \"billing\"\nsecret = \"{CANARY}\"\n\
         [store]\nurl = \"mysql://u:{CANARY}@db.example/d\"\n\
         [server]\nlisen = \"0.0.0.0:80\"\n"
    );
    std::fs::write(dir.path().join("hub.toml"), wrong).unwrap();
    let env = [
        ("SYNCLINE_BUS__URL", "amqp://:canary@bus.example"),
        ("SYNCLINE_SERVER__SHARDS", "two"),
        ("SYNCLINE_PUSH__EXPO__ACCES_TOKEN", CANARY),
    ];
    let words = ["--config", "hub.toml", "--set", "server.pong_timeout=9"];
    for command in [&["check-config"][..], &["check-config", "--print"], &["serve"]] {
        let checked = run(dir.path(), &env, &[&words[..], command].concat()).await;
        assert_eq!((checked.code, &*checked.out), (2, ""), "{command:?}");
        for told in [
            "error: auth.admin_token (hub.toml:2): ",
            "error: auth.hmac.0.secret (hub.toml:5): HS256 needs 32 bytes or more",
            "error: auth.hmac.0.secrte (hub.toml:6): there is no such key\n  help: did you mean `auth.hmac.0.secret`?",
            "error: ingest.sources.0.secret (hub.toml:9): ",
            "error: store.url (hub.toml:11): names no store this hub has",
            "error: server.lisen (hub.toml:13): there is no such key\n  help: did you mean `server.listen`?",
            "error: bus.url (SYNCLINE_BUS__URL): names no bus this hub has",
            "error: server.shards (SYNCLINE_SERVER__SHARDS): expected a whole number",
            "help: did you mean `SYNCLINE_PUSH__EXPO__ACCESS_TOKEN`?",
            "error: server.pong_timeout (--set server.pong_timeout): expected a duration",
            "The configuration has 10 errors.",
        ] {
            assert!(
                checked.err.contains(told),
                "{command:?} does not say {told}:\n{}",
                checked.err
            );
        }
        assert!(!checked.err.contains(CANARY), "{}", checked.err);
    }
    let missing = run(dir.path(), &[], &["--config", "no.toml", "check-config"]).await;
    assert_eq!(missing.code, 2);
    assert!(missing.err.contains("no.toml: the configuration file cannot be read"));
}

/// Runs `migrate` on a site's store.
async fn migrate(site: &Site) -> Ran {
    let url = format!("store.url={}", site.config.url);
    run(site.directory.path(), &[], &["--set", &url, "migrate"]).await
}

/// Versions, and when each came: a migration that ran again would have another time.
async fn applied(site: &Site) -> Vec<(i64, String)> {
    const APPLIED: &str =
        "SELECT version, CAST(installed_on AS TEXT) FROM _sqlx_migrations ORDER BY version";
    let store = Store::open(&site.config).await.unwrap();
    assert!(store.schema_is_current().await.unwrap());
    store.close().await;
    if site.config.url.starts_with("sqlite:") {
        let mut db = SqliteConnection::connect(&site.config.url).await.unwrap();
        sqlx::query_as(APPLIED).fetch_all(&mut db).await.unwrap()
    } else {
        let mut db = PgConnection::connect(&site.config.url).await.unwrap();
        sqlx::query_as(APPLIED).fetch_all(&mut db).await.unwrap()
    }
}

async fn a_store_is_migrated_once_and_a_newer_one_is_let_be(site: Site) {
    let mut config = hub::config(site.directory.path());
    (config.store.url, config.store.migrate) = (site.config.url.clone(), false);
    if !config.store.url.starts_with("sqlite:") {
        config.store.connections = 4;
    }
    let early = {
        let file = site.directory.path().join("hub.toml");
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        run(site.directory.path(), &[], &["--config", "hub.toml", "serve"]).await
    };
    assert_eq!(early.code, 1);
    assert!(early.err.contains("run `syncline migrate` first"), "{}", early.err);

    let first = migrate(&site).await;
    assert_eq!((first.code, &*first.out), (0, ""), "{}", first.err);
    assert!(first.err.contains("the schema is current"), "{}", first.err);
    let once = applied(&site).await;
    assert!(once.len() > 10);
    assert_eq!(migrate(&site).await.code, 0);
    assert_eq!(applied(&site).await, once, "nothing ran again");

    // A later release was here.
    site.run(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        SELECT 9999, 'of tomorrow', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
    )
    .await;
    let newer = migrate(&site).await;
    assert_eq!(newer.code, 0, "{}", newer.err);
    let later = applied(&site).await;
    assert_eq!((&later[..once.len()], later.len()), (&once[..], once.len() + 1));
    let hub = Process::start(config).await;
    let token = hub::token("ana", &json!({ "p": "editor" }));
    let mut ana = Client::connect(&hub.ws(), &token).await;
    let verdict = ana.write("p", json!([create("1", "t", &json!({}))])).await.remove(0);
    assert_eq!(verdict["outcome"], "applied", "{verdict}");

    // One of ours that was applied in another form is no schema to write to.
    site.run(
        "UPDATE _sqlx_migrations SET checksum =
        (SELECT checksum FROM _sqlx_migrations WHERE version = 2) WHERE version = 1",
    )
    .await;
    let edited = migrate(&site).await;
    assert_eq!(edited.code, 1);
    assert!(edited.err.contains("error: "), "{}", edited.err);
}

#[tokio::test]
async fn sqlite_is_migrated_once_and_a_newer_one_is_let_be() {
    a_store_is_migrated_once_and_a_newer_one_is_let_be(Site::sqlite()).await;
}

#[tokio::test]
async fn postgres_is_migrated_once_and_a_newer_one_is_let_be() {
    a_store_is_migrated_once_and_a_newer_one_is_let_be(Site::postgres().await).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_fails_the_command_and_keeps_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let closed = crate::support::process::free_port();
    let postgres = format!("store.url=postgres://u:{CANARY}@127.0.0.1:{closed}/d");
    std::fs::write(dir.path().join("file"), "").unwrap();
    for url in [&*postgres, "store.url=sqlite:file/no/directory.db"] {
        let failed = run(dir.path(), &[], &["--set", url, "migrate"]).await;
        assert_eq!((failed.code, &*failed.out), (1, ""), "{url}");
        assert!(failed.err.contains("error: "), "{}", failed.err);
        assert!(!failed.err.contains(CANARY), "{}", failed.err);
    }
}
