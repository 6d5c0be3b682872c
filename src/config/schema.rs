//! Which keys there are and what they hold, taken from [`Config`] itself.
//!
//! The schema is a sample configuration as a TOML value, in which every list holds one element and the
//! role table one role named `*`. Whether a value fits a key is asked of the type: the value is put into
//! the sample and the sample is read. Used by [`super::load`] only.

use std::sync::LazyLock;

use serde::Deserialize;
use toml::Value;

use super::push::Rule;
use super::{
    Auth, Config, Entities, Entity, Field, Hmac, Ingest, Jwks, PublicKey, Push, Role, Roles,
    Server, Source,
};
use crate::protocol::conflict::{Merge, Strategy};

/// Stands for any name in a table whose keys the user chooses.
pub(crate) const ANY: &str = "*";

static SAMPLE: LazyLock<Value> = LazyLock::new(|| {
    Value::try_from(sample()).expect("a configuration is made of tables, lists and plain values")
});

fn sample() -> Config {
    let one = || vec![String::new()];
    let role = Role {
        read: one(),
        write: one(),
        delete: one(),
        broadcast: false,
        hidden: [(ANY.to_owned(), one())].into(),
    };
    let field = Field {
        strategy: Some(Strategy::Merge),
        merge: Some(Merge::Counter),
        references: Some(String::new()),
    };
    let entity = Entity { fields: [(ANY.to_owned(), field)].into(), ..Entity::default() };
    Config {
        server: Server { allowed_origins: one(), ..Server::default() },
        auth: Auth {
            hmac: vec![Hmac::default()],
            public_keys: vec![PublicKey::default()],
            jwks: vec![Jwks::default()],
            issuers: one(),
            audiences: one(),
            ..Auth::default()
        },
        roles: Roles([(ANY.to_owned(), role)].into()),
        entities: Entities([(ANY.to_owned(), entity)].into()),
        push: Push {
            link_schemes: one(),
            drop_ambiguous: one(),
            locales: one(),
            rules: vec![Rule { on: one(), values: one(), roles: one(), ..Rule::default() }],
            ..Push::default()
        },
        ingest: Ingest { sources: vec![Source::default()], ..Ingest::default() },
        ..Config::default()
    }
}

/// The whole schema.
pub(crate) fn root() -> &'static Value {
    &SAMPLE
}

/// What a table holds under `key`.
pub(crate) fn child<'s>(schema: &'s Value, key: &str) -> Option<&'s Value> {
    match schema {
        Value::Table(table) => table.get(key).or_else(|| table.get(ANY)),
        Value::Array(items) => key.parse::<usize>().ok().and_then(|_| items.first()),
        _ => None,
    }
}

/// Whether `value` fits the key at `path`; if not, what was expected.
pub(crate) fn fits(path: &[String], value: &Value) -> Result<(), String> {
    let mut sample = SAMPLE.clone();
    let mut slot = &mut sample;
    for key in path {
        let next = match slot {
            Value::Table(table) => {
                let key = if table.contains_key(key) { key } else { ANY };
                table.get_mut(key)
            }
            Value::Array(items) => items.first_mut(),
            _ => None,
        };
        let Some(next) = next else { return Err("nothing here".into()) };
        slot = next;
    }
    *slot = value.clone();
    Config::deserialize(sample).map(|_| ()).map_err(|error| in_words(error.message()))
}

/// Serde's words for what a type expects, for people.
fn in_words(message: &str) -> String {
    let expected = message.rsplit_once("expected ").map_or(message, |(_, expected)| expected);
    let words = match expected.trim() {
        "a duration" => "a duration such as `25s` or `500ms`",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "text in quotes",
        "i32" => "a whole number up to 2147483647",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        other if other.contains("socket address") => "an address such as `127.0.0.1:8080`",
        other if other.contains("IP address") => "an IP address such as `10.0.0.1`",
        other => other,
    };
    words.to_owned()
}

/// Every key, as a dotted path; list elements are `0`, chosen names `*`.
pub(crate) fn keys() -> Vec<String> {
    fn walk(schema: &Value, path: &str, keys: &mut Vec<String>) {
        let join = |key: &str| if path.is_empty() { key.into() } else { format!("{path}.{key}") };
        match schema {
            Value::Table(table) => {
                table.iter().for_each(|(key, value)| walk(value, &join(key), keys));
            }
            Value::Array(items) if items.iter().any(Value::is_table) => {
                items.iter().for_each(|item| walk(item, &join("0"), keys));
            }
            _ => keys.push(path.to_owned()),
        }
    }
    let mut keys = Vec::new();
    walk(&SAMPLE, "", &mut keys);
    keys
}

/// The known key that was most likely meant by the unknown `path`, whose first `known` parts exist.
pub(crate) fn nearest(path: &[String], known: usize) -> Option<String> {
    misspelt(path, known).or_else(|| elsewhere(path))
}

/// The part at `known` is a misspelling of one of its siblings.
fn misspelt(path: &[String], known: usize) -> Option<String> {
    let schema = path[..known].iter().try_fold(root(), |schema, key| child(schema, key))?;
    let (sibling, likeness) = schema
        .as_table()?
        .keys()
        .map(|sibling| (sibling, strsim::normalized_damerau_levenshtein(sibling, &path[known])))
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    let mut meant = path.to_vec();
    meant[known].clone_from(sibling);
    let exists = meant.iter().try_fold(root(), |schema, key| child(schema, key)).is_some();
    (likeness >= 0.6 && exists).then(|| meant.join("."))
}

/// The key exists, but in another section.
fn elsewhere(path: &[String]) -> Option<String> {
    let last = path.last()?;
    let likeness = |key: &String| {
        let name = key.rsplit('.').next().unwrap_or(key);
        strsim::normalized_damerau_levenshtein(name, last)
    };
    let full = path.join(".");
    let (key, score) = keys()
        .into_iter()
        .map(|key| {
            (likeness(&key) + strsim::normalized_damerau_levenshtein(&key, &full) / 10.0, key)
        })
        .map(|(score, key)| (key, score))
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (score >= 0.8).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn every_list_of_the_sample_holds_an_element() {
        fn walk(value: &Value, at: &str) {
            match value {
                Value::Array(items) => {
                    assert!(!items.is_empty(), "the sample's list {at} is empty");
                    items.iter().for_each(|item| walk(item, at));
                }
                Value::Table(table) => {
                    table.iter().for_each(|(key, value)| walk(value, &format!("{at}.{key}")));
                }
                _ => {}
            }
        }
        walk(root(), "");
    }

    #[test]
    fn a_type_says_what_it_expects() {
        for (key, value, expected) in [
            ("server.ping_interval", Value::Integer(25), "a duration such as `25s` or `500ms`"),
            ("server.ping_interval", "25".into(), "a duration such as `25s` or `500ms`"),
            ("server.listen", "localhost".into(), "an address such as `127.0.0.1:8080`"),
            ("server.listen", Value::Integer(1), "an address such as `127.0.0.1:8080`"),
            ("server.trusted_proxies.7", "x".into(), "an IP address such as `10.0.0.1`"),
            ("server.shards", "many".into(), "a whole number, 0 or more"),
            ("server.shards", Value::Integer(-1), "a whole number, 0 or more"),
            ("limits.ops_per_second", Value::Integer(-1), "a whole number from 0 to 4294967295"),
            ("auth.query_token", "yes".into(), "`true` or `false`"),
            ("auth.hmac.3.kid", Value::Integer(1), "text in quotes"),
            ("auth.jwks.0.file", Value::Integer(1), "text in quotes"),
            ("log.format", "xml".into(), "`pretty` or `json`"),
            ("roles.ops.broadcast", Value::Integer(1), "`true` or `false`"),
        ] {
            assert_eq!(fits(&path(key), &value), Err(expected.to_owned()), "{key}");
        }
        assert_eq!(fits(&path("server.ping_interval"), &"1m 5s".into()), Ok(()));
    }

    #[test]
    fn the_nearest_key_is_found_in_place_or_elsewhere() {
        for (unknown, known, meant) in [
            ("server.lisen", 1, Some("server.listen")),
            ("servr.listen", 0, Some("server.listen")),
            ("auth.hmac.0.secrte", 3, Some("auth.hmac.0.secret")),
            ("server.rooms", 1, Some("limits.rooms")),
            ("admin_listen", 0, Some("server.admin_listen")),
            ("presence.lease_time", 1, None),
            ("colour", 0, None),
        ] {
            assert_eq!(nearest(&path(unknown), known).as_deref(), meant, "{unknown}");
        }
    }
}
