//! What a token says, read in one pass over its payload and checked against the configured rules.
//!
//! Called by [`super::token`] after the signature was found good, never before.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::token::TokenError;
use crate::config;
use crate::id::{ProjectId, RoleName, UserId};

/// Projects one token may grant.
pub const MAX_PROJECTS: usize = 1000;

/// Bytes of one text claim.
pub const MAX_TEXT_BYTES: usize = 256;

/// Claims with a meaning of their own, which the configurable ones may not take.
const FIXED: [&str; 7] = ["device", "jti", "iat", "exp", "nbf", "iss", "aud"];

/// What a verified token says. Lives once per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whom the token is about.
    pub user: UserId,
    /// The role it grants in each project.
    pub projects: BTreeMap<ProjectId, RoleName>,
    /// The device it was issued to.
    pub device: Option<String>,
    /// Its own id, for revocation.
    pub jti: Option<String>,
    /// When it was issued, in Unix seconds.
    pub issued_at: Option<i64>,
    /// When it expires, in Unix seconds, without leeway.
    pub expires_at: i64,
}

/// How claims are read: the part of the configuration that is not keys.
#[derive(Debug)]
pub(super) struct Rules {
    issuers: Vec<String>,
    audiences: Vec<String>,
    leeway: i64,
    user_claim: String,
    projects_claim: String,
    default_role: RoleName,
}

impl Rules {
    /// Reads the configuration, adding what is wrong with it to `problems`.
    pub(super) fn new(auth: &config::Auth, problems: &mut Vec<String>) -> Option<Self> {
        for (path, name) in
            [("user_claim", &auth.user_claim), ("projects_claim", &auth.projects_claim)]
        {
            if name.is_empty() || FIXED.contains(&name.as_str()) {
                problems.push(format!("auth.{path}: must name a claim other than {FIXED:?}"));
            }
        }
        if auth.user_claim == auth.projects_claim {
            problems.push("auth.projects_claim: must differ from auth.user_claim".into());
        }
        let default_role = RoleName::new(&auth.default_role)
            .map_err(|error| problems.push(format!("auth.default_role: {error}")));
        Some(Self {
            issuers: auth.issuers.clone(),
            audiences: auth.audiences.clone(),
            leeway: i64::try_from(auth.leeway.as_secs()).unwrap_or(i64::MAX),
            user_claim: auth.user_claim.clone(),
            projects_claim: auth.projects_claim.clone(),
            default_role: default_role.ok()?,
        })
    }

    /// Reads a payload whose signature is good, as of `now`.
    pub(super) fn read(&self, payload: &[u8], now: i64) -> Result<Claims, TokenError> {
        let mut json = serde_json::Deserializer::from_slice(payload);
        let raw = RawVisitor(self)
            .deserialize(&mut json)
            .and_then(|raw| json.end().map(|()| raw))
            .map_err(|_| bad("the payload is not an object in which each claim appears once"))?;

        self.check_origin(&raw)?;
        let expires_at = seconds(raw.exp, "exp")?.ok_or_else(|| bad("claim `exp` is required"))?;
        if now >= expires_at.saturating_add(self.leeway) {
            return Err(TokenError::Expired);
        }
        if seconds(raw.nbf, "nbf")?.is_some_and(|from| now < from.saturating_sub(self.leeway)) {
            return Err(TokenError::NotYetValid);
        }
        Ok(Claims {
            user: self.user(raw.user)?,
            projects: self.projects(raw.projects)?,
            device: text(raw.device, "device")?.map(Cow::into_owned),
            jti: text(raw.jti, "jti")?.map(Cow::into_owned),
            issued_at: seconds(raw.iat, "iat")?,
            expires_at,
        })
    }

    fn check_origin(&self, raw: &RawClaims<'_>) -> Result<(), TokenError> {
        if !self.issuers.is_empty() {
            let issuer = text(raw.iss, "iss")?.ok_or(TokenError::WrongIssuer)?;
            if !self.issuers.iter().any(|known| *known == issuer) {
                return Err(TokenError::WrongIssuer);
            }
        }
        if !self.audiences.is_empty() {
            let aud = raw.aud.ok_or(TokenError::WrongAudience)?;
            let aud: Texts<'_> = serde_json::from_str(aud.get())
                .map_err(|_| bad("claim `aud` must be a text or a list of texts"))?;
            if !aud.0.iter().any(|name| self.audiences.iter().any(|known| known == name)) {
                return Err(TokenError::WrongAudience);
            }
        }
        Ok(())
    }

    /// The user: a text, or an integer as some issuers' own user ids are.
    fn user(&self, raw: Option<&RawValue>) -> Result<UserId, TokenError> {
        let name = &self.user_claim;
        let raw = raw.ok_or_else(|| bad(format!("claim `{name}` is required")))?;
        let user = match serde_json::from_str::<u64>(raw.get()) {
            Ok(number) => Cow::Owned(number.to_string()),
            Err(_) => text(Some(raw), name)?.unwrap_or_default(),
        };
        UserId::new(&user).map_err(|error| bad(format!("claim `{name}`: {error}")))
    }

    fn projects(
        &self,
        raw: Option<&RawValue>,
    ) -> Result<BTreeMap<ProjectId, RoleName>, TokenError> {
        let name = &self.projects_claim;
        let Some(raw) = raw else { return Ok(BTreeMap::new()) };
        let Projects(granted) = serde_json::from_str(raw.get()).map_err(|_| {
            bad(format!("claim `{name}` must map project names to roles, or list project names"))
        })?;
        if granted.len() > MAX_PROJECTS {
            return Err(TokenError::TooLarge(format!(
                "claim `{name}` has more than {MAX_PROJECTS} projects"
            )));
        }
        let mut projects = BTreeMap::new();
        let mut last: Option<RoleName> = None;
        for (project, role) in granted {
            let project = ProjectId::new(&project.0)
                .map_err(|error| bad(format!("claim `{name}`: {error}")))?;
            // Neighbours mostly hold the same role: share its text.
            let role = match (role, &last) {
                (None, _) => self.default_role.clone(),
                (Some(role), Some(last)) if role.0 == last.as_str() => last.clone(),
                (Some(role), _) => RoleName::new(&role.0)
                    .map_err(|error| bad(format!("claim `{name}`: {error}")))?,
            };
            last = Some(role.clone());
            if projects.insert(project, role.clone()).is_some_and(|before| before != role) {
                return Err(bad(format!("claim `{name}` grants a project twice")));
            }
        }
        Ok(projects)
    }
}

fn bad(text: impl Into<String>) -> TokenError {
    TokenError::BadClaims(text.into())
}

fn text<'a>(raw: Option<&'a RawValue>, name: &str) -> Result<Option<Cow<'a, str>>, TokenError> {
    let Some(raw) = raw else { return Ok(None) };
    let text: Text<'a> = serde_json::from_str(raw.get())
        .map_err(|_| bad(format!("claim `{name}` must be a text")))?;
    if text.0.len() > MAX_TEXT_BYTES {
        return Err(TokenError::TooLarge(format!(
            "claim `{name}` has more than {MAX_TEXT_BYTES} bytes"
        )));
    }
    Ok(Some(text.0))
}

/// A `NumericDate` (RFC 7519, section 2): fractions are allowed, and rounded down.
fn seconds(raw: Option<&RawValue>, name: &str) -> Result<Option<i64>, TokenError> {
    let Some(raw) = raw else { return Ok(None) };
    let number: serde_json::Number = serde_json::from_str(raw.get())
        .map_err(|_| bad(format!("claim `{name}` must be a number of seconds")))?;
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which keeps far dates far")]
    let whole = || number.as_f64().map(|seconds| seconds.floor() as i64);
    Ok(number.as_i64().or_else(whole))
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The claims that matter, unread; one that is `null` counts as absent.
#[derive(Default)]
struct RawClaims<'a> {
    user: Option<&'a RawValue>,
    projects: Option<&'a RawValue>,
    device: Option<&'a RawValue>,
    jti: Option<&'a RawValue>,
    iat: Option<&'a RawValue>,
    exp: Option<&'a RawValue>,
    nbf: Option<&'a RawValue>,
    iss: Option<&'a RawValue>,
    aud: Option<&'a RawValue>,
}

struct RawVisitor<'r>(&'r Rules);

impl<'de> DeserializeSeed<'de> for RawVisitor<'_> {
    type Value = RawClaims<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RawVisitor<'_> {
    type Value = RawClaims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut raw = RawClaims::default();
        while let Some(Text(name)) = map.next_key()? {
            let slot = match &*name {
                name if name == self.0.user_claim => &mut raw.user,
                name if name == self.0.projects_claim => &mut raw.projects,
                "device" => &mut raw.device,
                "jti" => &mut raw.jti,
                "iat" => &mut raw.iat,
                "exp" => &mut raw.exp,
                "nbf" => &mut raw.nbf,
                "iss" => &mut raw.iss,
                "aud" => &mut raw.aud,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value: &RawValue = map.next_value()?;
            if value.get() != "null" && slot.replace(value).is_some() {
                return Err(A::Error::custom("a claim appears twice"));
            }
        }
        Ok(raw)
    }
}

/// A text, or a list of texts.
struct Texts<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Texts<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Texts(vec![Cow::Borrowed(text)]))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Texts(vec![Cow::Owned(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while let Some(Text(text)) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        json.deserialize_any(OneOrMany)
    }
}

/// `{"p1":"editor"}`, or `["p1"]`.
struct Projects<'a>(Vec<(Text<'a>, Option<Text<'a>>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Projects<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct MapOrList;
        impl<'de> Visitor<'de> for MapOrList {
            type Value = Projects<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from projects to roles, or a list of projects")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut granted = Vec::new();
                while let Some((project, role)) = map.next_entry()? {
                    granted.push((project, Some(role)));
                }
                Ok(Projects(granted))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut granted = Vec::new();
                while let Some(project) = list.next_element()? {
                    granted.push((project, None));
                }
                Ok(Projects(granted))
            }
        }
        json.deserialize_any(MapOrList)
    }
}

#[cfg(test)]
mod tests;
