//! The words of notifications in people's languages.
//!
//! One file a template in `push.templates`: `vars` names what it may say, then a table per locale with
//! `title`, `body` and, for several gathered into one, `many_title` and `many_body`. `default` must be
//! there. A person's `pt-BR` falls back to `pt`, then to `default`. Checked as a whole at start. Rendering
//! is strict and bounded; `sync` renders the default text, `push` the one for each device.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use icu_locale_core::Locale;
use icu_plurals::{PluralCategory, PluralRules};
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use crate::protocol::op::Fields;

/// What rendering one text may cost; a template of a few variables takes tens.
const FUEL: u64 = 20_000;
/// Characters of a rendered title.
const TITLE: usize = 200;
/// Characters of a rendered body.
const BODY: usize = 2000;
/// The locale everything falls back to.
const DEFAULT: &str = "default";
/// What every template may use beside its `vars`.
const ALWAYS: [&str; 2] = ["count", "locale"];
/// The text for several notifications that have none of their own; a template of this name replaces it.
pub const SUMMARY: &str = "summary";
const SUMMARY_FILE: &str = r#"
    [default]
    title = "{{ count }} new {{ plural(count, one='notification', other='notifications') }}"
    [de]
    title = "{{ count }} neue {{ plural(count, one='Mitteilung', other='Mitteilungen') }}"
    [es]
    title = "{{ count }} {{ plural(count, one='notificación nueva', other='notificaciones nuevas') }}"
    [fr]
    title = "{{ count }} {{ plural(count, one='nouvelle notification', other='nouvelles notifications') }}"
    [pt]
    title = "{{ count }} {{ plural(count, one='nova notificação', other='novas notificações') }}"
"#;
/// The texts of a locale, by the name of their field.
const PARTS: [&str; 4] = ["title", "body", "many_title", "many_body"];

/// A text as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Text {
    /// The title.
    pub title: String,
    /// The body.
    pub body: String,
}

/// Why a text could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is no such template.
    #[error("there is no template `{0}`")]
    Unknown(String),
    /// A variable is missing, or it took too long.
    #[error("{0}")]
    Render(#[from] Error),
}

/// All templates.
#[derive(Debug, Clone)]
pub struct Templates {
    env: Environment<'static>,
    /// The locales of each.
    locales: BTreeMap<String, BTreeSet<String>>,
    /// What each may say.
    vars: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    vars: Vec<String>,
    #[serde(flatten)]
    locales: BTreeMap<String, Words>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    title: String,
    #[serde(default)]
    body: String,
    many_title: Option<String>,
    many_body: Option<String>,
}

impl Default for Templates {
    fn default() -> Self {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_fuel(Some(FUEL));
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.add_function("plural", plural);
        let mut templates = Self { env, locales: BTreeMap::new(), vars: BTreeMap::new() };
        let problems = templates.add(SUMMARY, SUMMARY_FILE, &[]);
        debug_assert!(problems.is_empty(), "{problems:?}");
        templates
    }
}

impl Templates {
    /// Reads and checks every template of a directory; an empty path is none. With `required`, each must
    /// have these locales and no others.
    ///
    /// # Errors
    /// Everything that is wrong, each with its file.
    pub fn load(directory: &Path, required: &[String]) -> Result<Self, Vec<String>> {
        let mut templates = Self::default();
        let mut problems = Vec::new();
        if directory.as_os_str().is_empty() {
            return Ok(templates);
        }
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return Err(vec![format!("{}: {error}", directory.display())]),
        };
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
        files.sort();
        for file in files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) => {
                    problems.push(format!("{name}: {error}"));
                    continue;
                }
            };
            let found = templates.add(&name, &text, required);
            problems.extend(found.into_iter().map(|what| format!("{name}: {what}")));
        }
        if problems.is_empty() { Ok(templates) } else { Err(problems) }
    }

    /// Adds a template from its file's text; what is wrong with it.
    fn add(&mut self, name: &str, text: &str, required: &[String]) -> Vec<String> {
        let file: File = match toml::from_str(text) {
            Ok(file) => file,
            Err(error) => return vec![error.message().to_owned()],
        };
        let mut problems = Vec::new();
        if !file.locales.contains_key(DEFAULT) {
            problems.push(format!("the locale `{DEFAULT}` is missing"));
        }
        for locale in required.iter().filter(|locale| !file.locales.contains_key(*locale)) {
            problems.push(format!("the locale `{locale}` of `push.locales` is missing"));
        }
        for (locale, words) in &file.locales {
            let known = required.is_empty() || required.contains(locale);
            if locale != DEFAULT && (!known || locale.parse::<Locale>().is_err()) {
                problems.push(format!("unknown locale `{locale}`"));
            }
            let parts = [
                Some(&words.title),
                Some(&words.body),
                words.many_title.as_ref(),
                words.many_body.as_ref(),
            ];
            for (part, text) in PARTS.iter().zip(parts) {
                let Some(text) = text else { continue };
                let key = format!("{name}/{locale}/{part}");
                if let Err(error) = self.env.add_template_owned(key.clone(), text.clone()) {
                    problems.push(format!("{locale}.{part}: {error}"));
                    continue;
                }
                let Ok(template) = self.env.get_template(&key) else { continue };
                let mut unknown: Vec<_> =
                    template.undeclared_variables(false).into_iter().collect();
                let global = |var: &str| self.env.globals().any(|(name, _)| name == var);
                let always = |var: &str| ALWAYS.contains(&var) || global(var);
                unknown.retain(|var| !always(var) && !file.vars.contains(var));
                unknown.sort();
                let missing = |var: &String| format!("{locale}.{part}: `{var}` is not in `vars`");
                problems.extend(unknown.iter().map(missing));
            }
        }
        self.locales.insert(name.to_owned(), file.locales.into_keys().collect());
        self.vars.insert(name.to_owned(), file.vars);
        problems
    }

    /// Whether there is a template of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.locales.contains_key(name)
    }

    /// The variables a template may use.
    #[must_use]
    pub fn vars(&self, name: &str) -> &[String] {
        self.vars.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a template has words of its own for several notifications.
    #[must_use]
    pub fn has_many(&self, name: &str) -> bool {
        self.env.get_template(&format!("{name}/{DEFAULT}/many_title")).is_ok()
    }

    /// The names of all templates, with their locales.
    #[must_use]
    pub fn names(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.locales
    }

    /// Renders a template for a locale; `count` is how many notifications it stands for.
    ///
    /// # Errors
    /// There is no such template, a variable is missing, or it took too long.
    pub fn render(
        &self,
        name: &str,
        locale: Option<&str>,
        vars: &Fields,
        count: usize,
    ) -> Result<Text, TemplateError> {
        let locales =
            self.locales.get(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
        let locale = fallback(locale, locales);
        let mut context: BTreeMap<&str, Value> =
            vars.iter().map(|(key, value)| (key.as_str(), Value::from(Serde(value)))).collect();
        context.insert("count", Value::from(count));
        context.insert("locale", Value::from(locale));
        let context = Value::from_pairs(context);
        let part = |plain: &str, many: &str| {
            let named = |part: &str| self.env.get_template(&format!("{name}/{locale}/{part}"));
            let template = match (count > 1).then(|| named(many)) {
                Some(Ok(template)) => template,
                _ => named(plain)?,
            };
            template.render(context.clone())
        };
        Ok(Text {
            title: cut(part("title", "many_title")?, TITLE),
            body: cut(part("body", "many_body")?, BODY),
        })
    }
}

/// The best of the template's locales: the person's, then its language, then the default.
fn fallback<'l>(wanted: Option<&str>, locales: &'l BTreeSet<String>) -> &'l str {
    let mut wanted = wanted.unwrap_or_default().replace('_', "-");
    while !wanted.is_empty() {
        if let Some(found) = locales.iter().find(|locale| locale.eq_ignore_ascii_case(&wanted)) {
            return found;
        }
        wanted.truncate(wanted.rfind('-').unwrap_or(0));
    }
    locales.get(DEFAULT).map_or("", String::as_str)
}

/// The first `most` characters, the last of them `…` if some were cut off.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    if text.chars().count() > most {
        text = text.chars().take(most.saturating_sub(1)).collect();
        text.push('…');
    }
    text
}

/// `plural(n, one="task", few="…", other="tasks")`: the form the locale's rules ask for.
#[expect(clippy::needless_pass_by_value, reason = "it is how minijinja calls it")]
fn plural(state: &State<'_, '_>, number: i64, forms: Kwargs) -> Result<String, Error> {
    let locale = state.lookup("locale").map(|locale| locale.to_string()).unwrap_or_default();
    let locale: Locale = locale.parse().unwrap_or(Locale::UNKNOWN);
    let wrong = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    // The default texts are in whatever language the operator writes; most need one and other.
    let rules = if locale == Locale::UNKNOWN {
        PluralRules::try_new_cardinal(icu_locale_core::locale!("en").into())
    } else {
        PluralRules::try_new_cardinal((&locale).into())
    };
    let rules = rules.map_err(|error| wrong(error.to_string()))?;
    let form = match rules.category_for(number.unsigned_abs()) {
        PluralCategory::Zero => "zero",
        PluralCategory::One => "one",
        PluralCategory::Two => "two",
        PluralCategory::Few => "few",
        PluralCategory::Many => "many",
        PluralCategory::Other => "other",
    };
    let form = if forms.has(form) { form } else { "other" };
    let text: String = forms.get(form)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TASKS: &str = r#"
        vars = ["name", "n"]
        [default]
        title = "{{ name }}"
        body = "{{ n }} {{ plural(n, one='task', other='tasks') }}"
        many_title = "{{ count }} news"
        [pl]
        title = "{{ name }}"
        body = "{{ n }} {{ plural(n, one='zadanie', few='zadania', many='zadań', other='zadania') }}"
        [pt]
        title = "{{ name }} (pt)"
    "#;

    fn fields(value: serde_json::Value) -> Fields {
        serde_json::from_value(value).unwrap()
    }

    fn tasks() -> Templates {
        let mut templates = Templates::default();
        assert_eq!(templates.add("tasks", TASKS, &[]), [] as [String; 0]);
        templates
    }

    #[test]
    fn each_language_counts_its_own_way_and_falls_back() {
        let templates = tasks();
        let body = |locale, n: i32| {
            let vars = fields(json!({ "name": "Ana", "n": n }));
            templates.render("tasks", locale, &vars, 1).unwrap().body
        };
        assert_eq!(["1 task", "2 tasks"], [body(None, 1), body(None, 2)].map(|b| b));
        let polish: Vec<_> = [1, 2, 5, 22, 25].map(|n| body(Some("pl-PL"), n)).into();
        assert_eq!(polish, ["1 zadanie", "2 zadania", "5 zadań", "22 zadania", "25 zadań"]);
        let title = |locale, count| {
            let vars = fields(json!({ "name": "Ana", "n": 1 }));
            templates.render("tasks", Some(locale), &vars, count).unwrap().title
        };
        assert_eq!(title("pt-BR", 1), "Ana (pt)");
        assert_eq!(title("pt_BR", 1), "Ana (pt)");
        assert_eq!(title("ja", 1), "Ana");
        assert_eq!(title("ja", 3), "3 news");
        assert_eq!(title("pt", 3), "Ana (pt)", "no text for several: the text for one");
    }

    #[test]
    fn a_missing_variable_and_endless_work_are_errors() {
        let mut templates = tasks();
        assert!(templates.render("tasks", None, &fields(json!({ "n": 1 })), 1).is_err());
        assert!(matches!(
            templates.render("task", None, &Fields::new(), 1),
            Err(TemplateError::Unknown(_))
        ));
        let slow = "[default]\ntitle = \"{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}\"";
        assert_eq!(templates.add("slow", slow, &[]), [] as [String; 0]);
        assert!(templates.render("slow", None, &Fields::new(), 1).is_err());
    }

    #[test]
    fn everything_wrong_with_all_files_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.toml", "[de]\ntitle = \"{{ who }}\"\n[xx_yy_zz_1]\ntitle = \"t\"");
        write("b.toml", "[default]\ntitle = \"{{ open\"");
        write("c.toml", "[default]\nbody = \"no title\"");
        write("notes.txt", "not a template");
        let problems = Templates::load(dir.path(), &[]).unwrap_err();
        let has = |text: &str| {
            assert!(problems.iter().any(|p| p.contains(text)), "{text}: {problems:?}");
        };
        has("a: the locale `default` is missing");
        has("a: de.title: `who` is not in `vars`");
        has("a: unknown locale `xx_yy_zz_1`");
        has("b: default.title: syntax error");
        has("c: missing field `title`");
        assert_eq!(problems.len(), 5);

        write("a.toml", "[default]\ntitle = \"t\"\n[fr]\ntitle = \"t\"");
        write("b.toml", "[default]\ntitle = \"t\"\n[de]\ntitle = \"t\"");
        write("c.toml", "[default]\ntitle = \"t\"\n[de]\ntitle = \"t\"");
        let problems = Templates::load(dir.path(), &["de".into()]).unwrap_err();
        assert_eq!(
            problems,
            ["a: the locale `de` of `push.locales` is missing", "a: unknown locale `fr`"]
        );
    }
}
