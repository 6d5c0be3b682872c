//! Reads the configuration: file, then environment, then flags; the later one wins.
//!
//! Called by the command line. Everything that is wrong with every source is reported at once: unknown
//! keys and wrong types by [`super::reader`], wrong meanings by [`super::validate`].

use std::collections::BTreeMap;
use std::path::Path;

use super::Config;
use super::problem::{ConfigErrors, Origin, Problem};
use super::reader::Reader;

/// A configuration as it was read, before its meaning is checked.
#[derive(Debug)]
pub struct Loaded {
    /// What could be read; what could not has its default.
    pub config: Config,
    /// Where each key that was given came from.
    pub(super) origins: BTreeMap<String, Origin>,
    /// What could not be read.
    pub(super) problems: Vec<Problem>,
}

/// Reads and checks the configuration.
///
/// `env` may hold any variables; `flags` are paths such as `server.listen` with their values.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Config, ConfigErrors> {
    read(file, env, flags).checked()
}

/// Reads the configuration without checking its meaning; see [`Loaded::checked`].
pub fn read(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Loaded {
    let mut reader = Reader::new();
    if let Some(path) = file {
        reader.file(path);
    }
    reader.environment(env);
    for (key, value) in flags {
        reader.flag(key, value);
    }
    reader.finish()
}

impl Loaded {
    /// Checks what the values mean ([`Config::validate`]).
    ///
    /// # Errors
    /// Everything that is wrong, at once, warnings included.
    pub fn checked(self) -> Result<Config, ConfigErrors> {
        self.checked_for(|_| true)
    }

    /// The same for a command that needs some sections only: what is wrong with the meaning of keys that
    /// `needs` does not want is left out.
    ///
    /// # Errors
    /// Everything else that is wrong, at once, warnings included.
    pub fn checked_for(self, needs: impl Fn(&str) -> bool) -> Result<Config, ConfigErrors> {
        let Self { config, origins, mut problems } = self;
        let unread = problems.len();
        for mut problem in config.validate() {
            let told = problems[..unread].iter().any(|other| overlap(&other.key, &problem.key));
            if needs(&problem.key) && !told {
                problem.origin = origin_of(&origins, &problem.key);
                problems.push(problem);
            }
        }
        if problems.iter().any(Problem::is_error) {
            Err(ConfigErrors(problems))
        } else {
            Ok(config)
        }
    }
}

/// Whether one key is the other, or holds it. No key (a broken file) holds every key.
fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    short.is_empty()
        || long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Where a key came from; a key missing from a list's element came from where the element did.
fn origin_of(origins: &BTreeMap<String, Origin>, key: &str) -> Option<Origin> {
    let element = || key.rsplit_once('.').and_then(|(element, _)| origins.get(element));
    origins.get(key).or_else(element).cloned()
}
