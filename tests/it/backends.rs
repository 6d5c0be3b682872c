//! The examples of `docs/BACKENDS.md`, taken out of it and run as they stand, against a hub without sources and
//! one with.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use syncline::config::Source;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::eventually;
use crate::support::hub::{ADMIN_TOKEN, TestHub};
use crate::support::process::log_of;
use crate::support::redis::Server;

const DOCUMENT: &str = include_str!("../../docs/BACKENDS.md");
const SECRET: &str = "a secret of billing, long enough to sign with";

/// The blocks of a section, each with its language.
fn blocks(title: &str) -> Vec<(&'static str, &'static str)> {
    let (_, section) = DOCUMENT
        .split_once(&format!("\n### {title}\n"))
        .unwrap_or_else(|| panic!("no example for {title}"));
    let section = section.split("\n### ").next().unwrap();
    let fenced = section.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').unwrap()).collect()
}

/// A hub with Redis, and where examples are run.
struct Stage {
    hub: TestHub,
    redis: Server,
    sources: bool,
    dir: TempDir,
}

impl Stage {
    async fn new(sources: bool) -> Self {
        let redis = Server::start().await;
        let hub = TestHub::start_with(|config| {
            config.bus.url = redis.url();
            if sources {
                let billing = Source { name: "billing".into(), secret: SECRET.into() };
                config.ingest.sources = vec![billing];
            }
        })
        .await;
        eventually("the hub hears the channel", || async {
            let counted = redis.ask::<(String, u64)>("PUBSUB NUMSUB syncline:publish").await;
            counted.unwrap().1 == 1
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        // A redis-cli that goes to this Redis by itself, as the examples' does.
        let cli = dir.path().join("redis-cli");
        let exec =
            format!("#!/bin/sh\nPATH={}\nexec redis-cli -p {} \"$@\"\n", path(), redis.port());
        fs::write(&cli, exec).unwrap();
        fs::set_permissions(&cli, fs::Permissions::from_mode(0o755)).unwrap();
        Self { hub, redis, sources, dir }
    }

    /// Runs a program of an example, and returns what it prints.
    async fn run(&self, program: &[&str], name: &str, text: &str) -> String {
        let hub = self.hub.http("");
        let text = text
            .replace("http://127.0.0.1:8080", &hub)
            .replace("6379", &self.redis.port().to_string());
        let file = self.dir.path().join(name);
        fs::write(&file, text).unwrap();
        let mut paths = OsString::from(self.dir.path());
        paths.push(":");
        paths.push(path());
        let output = Command::new(program[0])
            .args(&program[1..])
            .arg(&file)
            .current_dir(self.dir.path())
            .env("PATH", paths)
            .env("SYNCLINE_SECRET", SECRET)
            .env("SYNCLINE_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("PYTHONPATH", libraries().join("python"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {err}");
        String::from_utf8(out.clone()).unwrap()
    }

    /// How many events came by a way and could be read; how many could not.
    fn came(&self, way: &str) -> (f64, f64) {
        let outcome = |outcome: &str| {
            let labels = format!("way=\"{way}\",outcome=\"{outcome}\"");
            self.hub.metric(&format!("syncline_ingest_events_total{{{labels}}}"))
        };
        (outcome("applied") + outcome("duplicate"), outcome("dead") + outcome("refused"))
    }

    /// Waits until so many more came by the stream and the channel.
    async fn more_came(&self, before: [(f64, f64); 2], more: [(f64, f64); 2]) {
        let expected = [0, 1].map(|n| (before[n].0 + more[n].0, before[n].1 + more[n].1));
        eventually(&format!("{more:?} more events came"), || async {
            [self.came("stream"), self.came("pubsub")] == expected
        })
        .await;
    }

    /// An invoice is as the example has it, by one change of this id.
    async fn applied(&self, op: &str, invoice: &str, changes: usize) {
        let path = format!("/v1/projects/p1/entities/invoice/{invoice}");
        let token = crate::support::hub::token("ana", &json!({ "p1": "viewer" }));
        let asked = reqwest::Client::new().get(self.hub.http(&path)).bearer_auth(token);
        let state: Value = asked.send().await.unwrap().json().await.unwrap();
        assert_eq!(state["fields"], json!({ "status": "paid" }), "{op}");
        let log = log_of(&self.hub.hub().store, "p1").await;
        let of_invoice: Vec<_> = log.iter().filter(|e| e.entity.id.as_str() == invoice).collect();
        assert_eq!(of_invoice.len(), changes, "{op} counts once");
        assert_eq!(of_invoice.last().unwrap().op_id.as_str(), op);
        assert_eq!(of_invoice[0].actor, "billing");
    }

    /// A program that adds one event to the stream and publishes it on the channel, signed.
    async fn program(&self, title: &str, language: &str, run: &[&str], op: &str, invoice: &str) {
        let [(written_in, text)] = blocks(title)[..] else { panic!("{title} is one block") };
        assert_eq!(written_in, language);
        let before = [self.came("stream"), self.came("pubsub")];
        self.run(run, &format!("example.{language}"), text).await;
        self.more_came(before, [(1.0, 0.0), (1.0, 0.0)]).await;
        self.applied(op, invoice, 1).await;
    }
}

fn path() -> String {
    std::env::var("PATH").unwrap()
}

/// Where `scripts/test` puts the libraries that the examples name.
fn libraries() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/examples")
}

/// Whether something can be run here; says so if not.
async fn there_is(what: &str, program: &[&str], needs: Option<PathBuf>) -> bool {
    let mut asked = Command::new(program[0]);
    asked.args(&program[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = asked.status().await.is_ok_and(|status| status.success())
        && needs.is_none_or(|library| library.exists());
    if !there {
        eprintln!("not run, because it is not installed: the example for {what}");
    }
    there
}

#[tokio::test]
async fn the_shell_examples_do_what_the_document_says() {
    for sources in [false, true] {
        let stage = Stage::new(sources).await;
        let [("sh", cli)] = blocks("redis-cli")[..] else { panic!("one block") };
        stage.run(&["sh", "-eu"], "cli.sh", cli).await;
        // Of one id, the channel hears the first only. With sources, what is not signed is refused.
        let came = match sources {
            false => [(2.0, 0.0), (1.0, 0.0)],
            true => [(1.0, 1.0), (1.0, 1.0)],
        };
        stage.more_came([(0.0, 0.0); 2], came).await;
        stage.applied("cli-1", "1", 1).await;
        stage.curl().await;
        stage.hub.stop().await;
    }
}

impl Stage {
    async fn curl(&self) {
        let [("sh", publish), ("sh", members), ("json", answer)] = blocks("curl")[..] else {
            panic!("two scripts, then the answer to the first")
        };
        let said = self.run(&["sh", "-eu"], "publish.sh", publish).await;
        let mut said = serde_json::Deserializer::from_str(&said).into_iter::<Value>();
        let documented: Value = serde_json::from_str(answer).unwrap();
        let first = said.next().unwrap().unwrap();
        // The project's changes so far decide where these two stand.
        let shift = |answer: &Value| {
            let mut answer = answer.clone();
            let at = answer["results"][0]["seq"].as_u64().unwrap();
            for result in answer["results"].as_array_mut().unwrap() {
                for member in ["seq", "version"] {
                    result[member] = json!(result[member].as_u64().unwrap() - at);
                }
            }
            answer
        };
        assert_eq!(shift(&first), shift(&documented));
        let signed = said.next().unwrap().unwrap();
        if self.sources {
            let results = signed["results"].as_array().unwrap();
            assert!(results.iter().all(|result| result["duplicate"] == true), "{signed}");
        } else {
            assert_eq!((&signed["status"], &signed["code"]), (&json!(401), &json!("unauthorized")));
        }
        self.applied("curl-2", "2", 2).await;

        let said = self.run(&["sh", "-eu"], "members.sh", members).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        let results = said["results"].as_array().unwrap();
        let outcomes: Vec<_> = results.iter().map(|r| (&r["id"], &r["outcome"])).collect();
        assert_eq!(outcomes[0], (&json!("curl-3"), &json!("applied")), "{said}");
        assert_eq!(outcomes[1].0, &json!("curl-4"), "{said}");
        let asked = reqwest::Client::new().get(self.hub.http("/v1/admin/projects/p1/members"));
        let asked = asked.bearer_auth(ADMIN_TOKEN).send().await.unwrap();
        let members = asked.text().await.unwrap();
        assert!(members.contains(r#""user":"ana","role":"editor""#), "{members}");
    }
}

#[tokio::test]
async fn the_programs_do_what_the_document_says() {
    let modules = libraries().join("node_modules");
    let node = there_is("Node", &["node", "--version"], Some(modules.join("redis"))).await;
    let library = libraries().join("python/redis");
    let python = there_is("Python", &["python3", "--version"], Some(library)).await;
    let php = there_is("PHP", &["php", "-r", "new Redis();"], None).await;
    for sources in [false, true] {
        let stage = Stage::new(sources).await;
        if node {
            std::os::unix::fs::symlink(&modules, stage.dir.path().join("node_modules")).unwrap();
            // An example in a file of its own is a module.
            fs::write(stage.dir.path().join("package.json"), r#"{"type":"module"}"#).unwrap();
            stage.program("Node", "js", &["node"], "node-1", "3").await;
        }
        if python {
            stage.program("Python", "python", &["python3"], "python-1", "4").await;
        }
        if php {
            stage.program("PHP", "php", &["php"], "php-1", "5").await;
        }
        stage.hub.stop().await;
    }
}

#[test]
fn every_example_is_run() {
    let (_, examples) = DOCUMENT.split_once("\n## Examples\n").unwrap();
    let titles: Vec<_> = examples.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(titles, ["redis-cli", "curl", "Node", "Python", "PHP"]);
}
