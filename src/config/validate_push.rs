//! What `[push]` may still get wrong: zones, hours, rules, and every template.

use reqwest::Url;

use super::Config;
use super::problem::Problem;
use super::push::Rule;
use crate::id::{EntityType, RoleName};
use crate::localtime::{is_time, is_zone};
use crate::templates::Templates;

impl Config {
    pub(super) fn push(&self, problems: &mut Vec<Problem>) {
        let push = &self.push;
        let mut problem = |key: &str, what: String| problems.push(Problem::error(key, what));
        if !is_zone(&push.time_zone) {
            problem("push.time_zone", format!("there is no time zone {:?}", push.time_zone));
        }
        for (key, time) in
            [("push.quiet_from", &push.quiet_from), ("push.quiet_to", &push.quiet_to)]
        {
            let off = key == "push.quiet_from" && time.is_empty();
            if !off && !is_time(time) {
                problem(key, format!("{time:?} is not a time of day such as `22:00`"));
            }
        }
        let expo = &push.expo;
        let web = Url::parse(&expo.base_url);
        if !web.is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
            problem("push.expo.base_url", "this is not a web address".into());
        }
        for (key, zero) in [
            ("push.expo.rate", expo.rate == 0),
            ("push.expo.in_flight", expo.in_flight == 0),
            ("push.expo.timeout", expo.timeout.is_zero()),
            ("push.expo.receipt_after", expo.receipt_after.is_zero()),
            ("push.expo.breaker", expo.breaker.is_zero()),
        ] {
            if zero {
                problem(key, "must not be 0".into());
            }
        }
        if expo.enabled && push.lease <= expo.timeout * 2 {
            problem("push.lease", "must be longer than two `push.expo.timeout`".into());
        }
        let templates = match Templates::load(&push.templates, &push.locales) {
            Ok(templates) => Some(templates),
            Err(found) => {
                found.into_iter().for_each(|what| problem("push.templates", what));
                None
            }
        };
        for (index, rule) in push.rules.iter().enumerate() {
            let known = |name: &str| templates.as_ref().is_none_or(|all| all.has(name));
            for (field, what) in rule.problems(&known) {
                problem(&format!("push.rules.{index}.{field}"), what);
            }
            if !rule.link.is_empty() && !push.may_open(&rule.link) {
                let what = "its scheme is not in `push.link_schemes`";
                problem(&format!("push.rules.{index}.link"), what.into());
            }
        }
    }
}

impl Rule {
    fn problems(&self, known: &dyn Fn(&str) -> bool) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Err(error) = EntityType::new(&self.entity) {
            problems.push(("entity", error.to_string()));
        }
        for on in self.on.iter().filter(|on| !["create", "update", "delete"].contains(&&***on)) {
            problems.push(("on", format!("{on:?} is not `create`, `update` or `delete`")));
        }
        if self.field.is_empty() && !self.values.is_empty() {
            problems.push(("values", "needs a `field`".into()));
        }
        for role in &self.roles {
            if let Err(error) = RoleName::new(role) {
                problems.push(("roles", error.to_string()));
            }
        }
        if !self.members && self.roles.is_empty() && self.users_field.is_empty() {
            let what = "nobody is named: set `members`, `roles` or `users_field`";
            problems.push(("members", what.into()));
        }
        if !known(&self.template) {
            problems.push(("template", format!("there is no template {:?}", self.template)));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::push::Rule;

    #[test]
    fn a_rule_that_would_not_do_what_it_says_is_a_problem() {
        let problems = |rule: Rule| {
            let mut config = Config::default();
            config.push.rules = vec![rule];
            let keys = config.validate().into_iter().map(|problem| problem.key);
            keys.filter_map(|key| Some(key.strip_prefix("push.rules.0.")?.to_owned()))
                .collect::<Vec<_>>()
        };
        let right = Rule {
            entity: "task".into(),
            members: true,
            template: "summary".into(),
            link: "app://{project}/{id}".into(),
            ..Rule::default()
        };
        assert_eq!(problems(right.clone()), [] as [&str; 0]);
        let wrong = Rule {
            entity: "no type".into(),
            on: vec!["made".into()],
            values: vec!["high".into()],
            members: false,
            template: "no such".into(),
            link: "javascript:alert(1)".into(),
            ..right
        };
        let all = ["entity", "on", "values", "members", "template", "link"];
        assert_eq!(problems(wrong), all);
    }
}
