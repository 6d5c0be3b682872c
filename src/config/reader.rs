//! Puts the values of every source in their places, checking each against [`super::schema`] as it lands.
//!
//! Used by [`super::load`] only. A list, or the table of roles, that is given at all starts empty, not
//! from its default. A value that does not fit is a problem and leaves its key as it was.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::Config;
use super::load::Loaded;
use super::problem::{Origin, Problem};
use super::schema;

/// What environment variables of the hub begin with.
const ENV_PREFIX: &str = "SYNCLINE_";

/// Gathers values and problems, source by source.
pub(super) struct Reader {
    merged: Value,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Reader {
    /// A reader that was given nothing yet.
    pub(super) fn new() -> Self {
        let merged = Value::Table(Table::new());
        Self { merged, origins: BTreeMap::new(), problems: Vec::new() }
    }

    /// Reads the file.
    pub(super) fn file(&mut self, path: &Path) {
        let at = |line| Origin::File { path: path.to_owned(), line };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let what = format!("the configuration file cannot be read: {error}");
                return self.problems.push(Problem::error("", what).at(&at(0)));
            }
        };
        let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let (document, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            let line = error.span().map_or(0, |span| line_of(span.start));
            let what = format!("this is not TOML: {}", error.message());
            self.problems.push(Problem::error("", what).at(&at(line)));
        }
        // What a parser guesses after a syntax error is not what was meant.
        if errors.is_empty() {
            let origin = |span: Range<usize>| at(line_of(span.start));
            self.table(&mut Vec::new(), schema::root(), document.get_ref(), &origin);
        }
        self.problems.sort_by_key(|problem| match problem.origin {
            Some(Origin::File { line, .. }) => line,
            _ => 0,
        });
    }

    fn table(
        &mut self,
        path: &mut Vec<String>,
        schema: &Value,
        table: &DeTable<'_>,
        origin: &dyn Fn(Range<usize>) -> Origin,
    ) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            match schema::child(schema, key.get_ref()) {
                Some(schema) => self.value(path, schema, value, &origin),
                None => self.unknown(path, path.len() - 1, &origin(key.span())),
            }
            path.pop();
        }
    }

    fn value(
        &mut self,
        path: &mut Vec<String>,
        schema: &Value,
        value: &Spanned<DeValue<'_>>,
        origin: &dyn Fn(Range<usize>) -> Origin,
    ) {
        let here = origin(value.span());
        match (schema, value.get_ref()) {
            (Value::Table(keys), DeValue::Table(table)) => {
                if !keys.contains_key(schema::ANY) {
                    self.slot(path);
                }
                self.table(path, schema, table, origin);
            }
            (Value::Array(_), DeValue::Array(items)) => {
                self.start_list(path, here);
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.origins.insert(path.join("."), origin(item.span()));
                    if let Some(schema) = schema::child(schema, &path[path.len() - 1]) {
                        self.value(path, schema, item, origin);
                    }
                    path.pop();
                }
            }
            (Value::Table(_), _) => self.mismatch(path, "a table", value.get_ref(), &here),
            (Value::Array(items), given) => {
                let expected = match items.first() {
                    Some(Value::Table(_)) => format!("a list of tables, `[[{}]]`", path.join(".")),
                    _ => "a list such as `[\"a\", \"b\"]`".to_owned(),
                };
                self.mismatch(path, &expected, given, &here);
            }
            (_, given) => match plain(given).map(|plain| (schema::fits(path, &plain), plain)) {
                Some((Ok(()), plain)) => self.accept(path, plain, &here),
                Some((Err(expected), _)) => self.mismatch(path, &expected, given, &here),
                None => self.mismatch(path, "one plain value", given, &here),
            },
        }
    }

    /// Reads the hub's variables among all others.
    pub(super) fn environment(&mut self, env: impl Iterator<Item = (String, String)>) {
        let mut settings: Vec<_> = env
            .filter_map(|(name, value)| {
                let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase();
                Some((split(&key, "__"), name, value))
            })
            .collect();
        // Index 2 of a list comes before index 10, and both before what they might hold.
        settings.sort_by_cached_key(|(path, ..)| {
            path.iter().map(|part| (part.parse::<usize>().ok(), part.clone())).collect::<Vec<_>>()
        });
        for (path, name, value) in settings {
            if path.len() > 1 {
                self.text(&path, &value, &Origin::Env(name));
            } else {
                self.one_underscore(&path[0], &name);
            }
        }
    }

    /// Reads one `--set`.
    pub(super) fn flag(&mut self, key: &str, value: &str) {
        self.text(&split(key, "."), value, &Origin::Flag(key.to_owned()));
    }

    /// `SYNCLINE_SERVER_LISTEN` is a mistake; `SYNCLINE_PORT` and other names that orchestrators set are not.
    fn one_underscore(&mut self, rest: &str, name: &str) {
        if let Some(key) = schema::keys().iter().find(|key| key.replace('.', "_") == rest) {
            self.problems.push(
                Problem::error(key, "this variable sets nothing")
                    .at(&Origin::Env(name.to_owned()))
                    .help(format!("two underscores part the names: `{}`", env_name(key))),
            );
        }
    }

    /// A value given as text: the key's type decides whether it is TOML or the text itself.
    fn text(&mut self, path: &[String], text: &str, origin: &Origin) {
        let mut schema = schema::root();
        for (depth, key) in path.iter().enumerate() {
            if !self.in_reach(&path[..=depth], schema, origin) {
                return;
            }
            match schema::child(schema, key) {
                Some(child) => schema = child,
                None => return self.unknown(path, depth, origin),
            }
        }
        let given = DeValue::parse(text).ok();
        let path = &mut path.to_vec();
        match given {
            Some(given) if schema.is_table() || schema.is_array() => {
                self.value(path, schema, &given, &|_| origin.clone());
            }
            Some(given)
                if plain(given.get_ref()).is_some_and(|v| schema::fits(path, &v).is_ok()) =>
            {
                self.value(path, schema, &given, &|_| origin.clone());
            }
            _ => {
                let value = Spanned::new(0..0, DeValue::String(text.into()));
                self.value(path, schema, &value, &|_| origin.clone());
            }
        }
    }

    /// Whether the last part of `path`, if it counts into a list, names an element or the next one.
    fn in_reach(&mut self, path: &[String], schema: &Value, origin: &Origin) -> bool {
        let Some((last, list)) = path.split_last().filter(|_| schema.is_array()) else {
            return true;
        };
        let length = list
            .iter()
            .try_fold(&self.merged, |value, key| match value {
                Value::Array(items) => items.get(key.parse::<usize>().ok()?),
                value => value.get(key),
            })
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let reached = last.parse::<usize>().is_ok_and(|index| index <= length);
        if !reached {
            let what = format!("the list has {length} entries; the next one is number {length}");
            self.problems.push(Problem::error(path.join("."), what).at(origin));
        }
        self.origins.entry(path.join(".")).or_insert_with(|| origin.clone());
        reached
    }

    fn accept(&mut self, path: &[String], value: Value, origin: &Origin) {
        if let Some(slot) = self.slot(path) {
            *slot = value;
        }
        self.origins.insert(path.join("."), origin.clone());
    }

    fn start_list(&mut self, path: &[String], origin: Origin) {
        if let Some(slot) = self.slot(path) {
            *slot = Value::Array(Vec::new());
        }
        let key = path.join(".");
        self.origins.retain(|other, _| !other.starts_with(&format!("{key}.")));
        self.origins.insert(key, origin);
    }

    /// The place of a key; what is missing on the way is made, as the schema has it.
    fn slot(&mut self, path: &[String]) -> Option<&mut Value> {
        let (mut at, mut schema) = (&mut self.merged, schema::root());
        for key in path {
            schema = schema::child(schema, key)?;
            let empty = || match schema {
                Value::Table(_) => Value::Table(Table::new()),
                Value::Array(_) => Value::Array(Vec::new()),
                plain => plain.clone(),
            };
            at = match at {
                Value::Table(table) => table.entry(key).or_insert_with(empty),
                Value::Array(items) => {
                    let index = key.parse::<usize>().ok()?.min(items.len());
                    if index == items.len() {
                        items.push(empty());
                    }
                    &mut items[index]
                }
                _ => return None,
            };
        }
        Some(at)
    }

    fn unknown(&mut self, path: &[String], known: usize, origin: &Origin) {
        let problem = Problem::error(path.join("."), "there is no such key").at(origin);
        self.problems.push(match schema::nearest(path, known) {
            None => problem,
            Some(key) if matches!(origin, Origin::Env(_)) => {
                problem.help(format!("did you mean `{}`?", env_name(&key)))
            }
            Some(key) => problem.help(format!("did you mean `{key}`?")),
        });
    }

    fn mismatch(&mut self, path: &[String], expected: &str, given: &DeValue<'_>, origin: &Origin) {
        let got = shown(path, given);
        let what = format!("expected {expected}, got {got}");
        let problem = Problem::error(path.join("."), what).at(origin);
        self.problems.push(match given {
            DeValue::Integer(number) if expected.starts_with("a duration") => {
                problem.help(format!("seconds are written `\"{}s\"`", number.as_str()))
            }
            DeValue::String(text)
                if expected.starts_with("a duration") && text.parse::<u64>().is_ok() =>
            {
                problem.help(format!("seconds are written `{text}s`"))
            }
            _ => problem,
        });
    }

    /// What was read.
    pub(super) fn finish(mut self) -> Loaded {
        let config = Config::deserialize(self.merged).unwrap_or_else(|error| {
            // Each value was asked of its type already; this is a file whose parts do not fit together.
            self.problems.push(Problem::error("", error.message()));
            Config::default()
        });
        Loaded { config, origins: self.origins, problems: self.problems }
    }
}

fn split(key: &str, separator: &str) -> Vec<String> {
    key.split(separator).map(str::to_owned).collect()
}

fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// What was given, unless it may be a secret.
fn shown(path: &[String], given: &DeValue<'_>) -> String {
    let secret = path.iter().any(|key| {
        matches!(&**key, "secret" | "admin_token" | "access_token" | "base_url" | "url")
    });
    match given {
        DeValue::Integer(number) if !secret => number.as_str().to_owned(),
        DeValue::String(text) if !secret => {
            format!("{:?}", text.chars().take(64).collect::<String>())
        }
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::String(_) => "text".to_owned(),
        other => format!("a {}", other.type_str()),
    }
}

fn plain(given: &DeValue<'_>) -> Option<Value> {
    Some(match given {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().ok()?),
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Datetime(at) => Value::Datetime(*at),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}
