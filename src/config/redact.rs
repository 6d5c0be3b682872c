//! Printing without secrets: what `check-config --print` shows, and the `Debug` of what holds a secret.
//!
//! Invariant: a secret, or the password of a URL, is only ever read by the code that uses it.

use std::fmt;

use super::{Auth, Bus, Config, Expo, Hmac, Jwks, Source, Store};

/// What stands for a secret.
const HIDDEN: &str = "***";

/// A secret's stand-in; an empty one stays empty, so that one sees that it is missing.
fn secret(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { HIDDEN }
}

/// `url` without its password. What cannot be told apart is hidden: everything up to the last `@`, and
/// the query's values that sound secret.
#[must_use]
pub fn url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (user, host) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((user, host)) => (Some(user), host),
    };
    let mut shown = format!("{scheme}://");
    match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => {}
        Some((user, _)) if user.contains('?') => shown.push_str("***@"),
        // A lone word before a Redis host is a password somebody forgot the colon of.
        Some((_, "")) if scheme.starts_with("redis") => shown.push_str("***@"),
        Some((user, "")) => shown.push_str(&format!("{user}@")),
        Some((user, _)) => shown.push_str(&format!("{user}:{HIDDEN}@")),
    }
    match host.split_once('?') {
        None => shown.push_str(host),
        Some((host, query)) => {
            let values: Vec<_> = query.split('&').map(parameter).collect();
            shown.push_str(&format!("{host}?{}", values.join("&")));
        }
    }
    shown
}

fn parameter(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _))
            if ["pass", "pw", "secret", "token", "key", "sig", "auth"]
                .iter()
                .any(|word| name.to_lowercase().contains(word)) =>
        {
            format!("{name}={HIDDEN}")
        }
        _ => pair.to_owned(),
    }
}

impl Config {
    /// The same configuration with every secret and URL password as `***`.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        for key in &mut shown.auth.hmac {
            key.secret = secret(&key.secret).into();
        }
        for set in &mut shown.auth.jwks {
            set.url = url(&set.url);
        }
        for source in &mut shown.ingest.sources {
            source.secret = secret(&source.secret).into();
        }
        shown.auth.admin_token = secret(&shown.auth.admin_token).into();
        shown.push.expo.access_token = secret(&shown.push.expo.access_token).into();
        shown.push.expo.base_url = url(&shown.push.expo.base_url);
        shown.store.url = url(&shown.store.url);
        shown.bus.url = url(&shown.bus.url);
        shown
    }
}

/// `Debug` as derived, but for fields that are shown through a function. Every field has to be named.
macro_rules! redacted_debug {
    ($name:ident { $($field:ident),* } hides { $($hidden:ident: $show:path),* }) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($field,)* $($hidden),* } = self;
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), $field))*
                    $(.field(stringify!($hidden), &$show($hidden)))*
                    .finish()
            }
        }
    };
}

redacted_debug!(Hmac { kid, algorithm } hides { secret: self::secret });
redacted_debug!(Jwks { file, refresh } hides { url: self::url });
redacted_debug!(Expo {
    enabled, rate, in_flight, timeout, receipt_after, breaker
} hides { access_token: self::secret, base_url: self::url });
redacted_debug!(Source { name } hides { secret: self::secret });
redacted_debug!(Store {
    connections, lock_timeout, group_ops, group_bytes, queue_ops, queue_bytes,
    migrate, sync_log
} hides { url: self::url });
redacted_debug!(Bus {
    prefix, probe_interval, head_poll, head_poll_suspect, gap_hold
} hides { url: self::url });
redacted_debug!(Auth {
    hmac, public_keys, jwks, issuers, audiences, leeway, user_claim, projects_claim, memberships, default_role,
    query_token, expiry_warning, expiry_grace
} hides { admin_token: self::secret });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (full, shown) in [
            ("sqlite:data/syncline.db", "sqlite:data/syncline.db"),
            ("postgres://ana:pa55@db/x?sslmode=require", "postgres://ana:***@db/x?sslmode=require"),
            ("postgres://ana:p@/:5@db/x", "postgres://ana:***@db/x"),
            ("postgres://db/x?user=a&password=b", "postgres://db/x?user=a&password=***"),
            ("postgres://ana:p?5@db/x", "postgres://ana:***@db/x"),
            ("https://idp/jwks?token=a@b", "https://***@b"),
            ("postgres://ana@db/x", "postgres://ana@db/x"),
            ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
            ("redis://pw@h", "redis://***@h"),
            ("redis+cluster://u:pw@a:1,u:pw@b:2", "redis+cluster://u:***@b:2"),
            ("https://idp/jwks?api_key=1", "https://idp/jwks?api_key=***"),
            ("local", "local"),
        ] {
            assert_eq!(url(full), shown);
        }
    }

    #[test]
    fn no_secret_is_printed() {
        const WORD: &str = "hush-hush";
        let mut config = Config::default();
        config.auth.hmac =
            vec![Hmac { kid: "a".into(), algorithm: "HS256".into(), secret: WORD.into() }];
        config.auth.jwks =
            vec![Jwks { url: format!("https://u:{WORD}@idp/keys"), ..Jwks::default() }];
        config.auth.admin_token = WORD.into();
        config.ingest.sources = vec![Source { name: "billing".into(), secret: WORD.into() }];
        config.push.expo.access_token = WORD.into();
        config.store.url = format!("postgres://ana:{WORD}@db/syncline");
        config.bus.url = format!("redis://:{WORD}@redis:6379");
        let printed = toml::to_string(&config.redacted()).unwrap();
        assert_eq!(printed.matches("***").count(), 7, "{printed}");
        for text in [printed, format!("{config:?}"), format!("{config:#?}")] {
            assert!(!text.contains(WORD), "{text}");
            assert!(text.contains("billing") && text.contains("db/syncline"), "{text}");
        }
    }
}
