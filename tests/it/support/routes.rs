//! The endpoints of the public listener, read from the source: a router does not tell its routes, and a list
//! of them elsewhere would be forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Not an API: the operators' listener, and the page for development that hands out tokens.
const OTHERS: [&str; 2] = ["operator.rs", "demo.rs"];

/// Every method and path pattern there is.
pub(crate) fn all() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net");
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".rs") && !OTHERS.contains(&&*name) {
            let source = fs::read_to_string(entry.path()).unwrap();
            let code: String = source.split_whitespace().collect();
            for route in code.split(".route(\"").skip(1) {
                let (path, handlers) = route.split_once("\",").unwrap();
                found.extend(methods(handlers).map(|method| (method, path.to_owned())));
            }
        }
    }
    assert!(found.len() > 40, "the source was not understood: {found:?}");
    found
}

/// Whether a path is one of a pattern.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(wanted), Some(part)) if wanted.starts_with('{') || wanted == part => {}
            _ => return false,
        }
    }
}

/// The methods of `get(list).post(register)` and so on, up to the bracket that closes the route.
fn methods(handlers: &str) -> impl Iterator<Item = String> {
    let (mut depth, mut word, mut found) = (0, String::new(), Vec::new());
    for c in handlers.chars() {
        match c {
            '(' => {
                if depth == 0 && ["get", "post", "put", "delete", "patch"].contains(&&*word) {
                    found.push(word.to_uppercase());
                }
                depth += 1;
            }
            ')' if depth == 0 => break,
            ')' => depth -= 1,
            _ => {}
        }
        if c.is_alphanumeric() { word.push(c) } else { word.clear() }
    }
    assert!(!found.is_empty(), "no method in {handlers}");
    found.into_iter()
}
