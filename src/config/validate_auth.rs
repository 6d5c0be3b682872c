//! What `[auth]` may still get wrong: keys, where they come from, and the claims to read.

use reqwest::Url;

use super::problem::Problem;
use super::validate::MIN_SECRET;
use super::{Auth, Hmac};

/// What a public key may sign with.
const PUBLIC_KEY_ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

impl Auth {
    pub(super) fn keys(&self, problems: &mut Vec<Problem>) {
        if self.hmac.is_empty() && self.public_keys.is_empty() && self.jwks.is_empty() {
            problems.push(
                Problem::error("auth", "no key is configured, so no token can be believed").help(
                    "add `[[auth.hmac]]`, `[[auth.public_keys]]` or `[[auth.jwks]]`, \
                     or try the hub with `syncline serve --dev`",
                ),
            );
        }
        for (index, Hmac { kid, algorithm, secret }) in self.hmac.iter().enumerate() {
            let key = |name| format!("auth.hmac.{index}.{name}");
            let min = match algorithm.as_str() {
                "HS256" => 32,
                "HS384" => 48,
                "HS512" => 64,
                other => {
                    let what = format!("expected `HS256`, `HS384` or `HS512`, got {other:?}");
                    problems.push(Problem::error(key("algorithm"), what));
                    continue;
                }
            };
            if secret.len() < min {
                let what = format!("{algorithm} needs {min} bytes or more, got {}", secret.len());
                problems.push(
                    Problem::error(key("secret"), what)
                        .help(format!("make one with `openssl rand -hex {min}`")),
                );
            }
            if self.hmac[..index].iter().any(|o| o.kid == *kid && o.algorithm == *algorithm) {
                let what = format!("another {algorithm} key has the `kid` {kid:?} too");
                problems.push(Problem::error(key("kid"), what));
            }
        }
    }

    pub(super) fn public_keys(&self, problems: &mut Vec<Problem>) {
        let unreadable = |key: String, file: &std::path::Path| {
            Problem::error(key, format!("there is no file {}", file.display()))
        };
        for (index, public) in self.public_keys.iter().enumerate() {
            let key = |name| format!("auth.public_keys.{index}.{name}");
            if !PUBLIC_KEY_ALGORITHMS.contains(&public.algorithm.as_str()) {
                problems.push(
                    Problem::error(key("algorithm"), format!("got {:?}", public.algorithm))
                        .help(format!("expected one of {}", PUBLIC_KEY_ALGORITHMS.join(", "))),
                );
            }
            if !public.pem_file.is_file() {
                problems.push(unreadable(key("pem_file"), &public.pem_file));
            }
        }
        for (index, set) in self.jwks.iter().enumerate() {
            let has_file = !set.file.as_os_str().is_empty();
            let has_url = !set.url.is_empty();
            if has_file == has_url {
                problems.push(Problem::error(
                    format!("auth.jwks.{index}"),
                    "set exactly one of `file` and `url`",
                ));
            } else if has_file && !set.file.is_file() {
                problems.push(unreadable(format!("auth.jwks.{index}.file"), &set.file));
            } else if has_url
                && !Url::parse(&set.url).is_ok_and(|url| matches!(url.scheme(), "https" | "http"))
            {
                problems.push(
                    Problem::error(format!("auth.jwks.{index}.url"), "this is not a web address")
                        .help("write `https://host/path`"),
                );
            }
        }
    }

    pub(super) fn others(&self, problems: &mut Vec<Problem>) {
        if !self.admin_token.is_empty() && self.admin_token.chars().count() < MIN_SECRET {
            problems.push(
                Problem::error(
                    "auth.admin_token",
                    "needs 32 characters or more; empty turns it off",
                )
                .help("make one with `openssl rand -hex 32`"),
            );
        }
        for (key, claim) in
            [("auth.user_claim", &self.user_claim), ("auth.projects_claim", &self.projects_claim)]
        {
            if claim.is_empty() {
                problems.push(Problem::error(key, "must name a claim"));
            }
        }
    }
}
