//! What docs/ARCHITECTURE.md says is absent on purpose, is absent.

use std::fs;
use std::path::{Path, PathBuf};

/// The code below a folder, by file: without comments, and without tests in files of their own, which may use anything.
fn sources(under: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                found.push((path.clone(), code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(under), &mut found);
    assert!(!found.is_empty(), "there is no src/{under}");
    found
}

fn assert_absent(under: &str, words: &[&str]) {
    for (path, code) in sources(under) {
        for word in words {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn sync_and_fanout_know_no_edge_and_no_database() {
    for module in ["sync", "fanout"] {
        assert_absent(
            module,
            &["axum", "hyper", "redis::", "sqlx", "crate::net", "crate::session"],
        );
    }
}

#[test]
fn the_protocol_is_pure() {
    let modules = ["auth", "store", "sync", "fanout", "session", "net", "config", "hub", "bus"];
    let modules: Vec<_> = modules.iter().map(|name| format!("crate::{name}")).collect();
    assert_absent("protocol", &modules.iter().map(String::as_str).collect::<Vec<_>>());
    assert_absent("protocol", &["tokio::", "std::net", "std::fs", "SystemTime", "Instant"]);
}

#[test]
fn only_the_composition_root_names_concrete_engines() {
    for module in ["sync", "fanout", "session", "net", "push"] {
        assert_absent(module, &["Presence::redis", "Presence::local", "Quota::redis", "Bus::open"]);
    }
}

#[test]
fn the_engine_never_calls_push() {
    assert_absent("sync", &["crate::push"]);
}
