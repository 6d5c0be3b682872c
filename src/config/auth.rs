use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[auth]`: which tokens are believed. At least one key must be configured.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Shared-secret keys (HS256, HS384, HS512). Default none.
    pub hmac: Vec<Hmac>,
    /// Public keys in PEM files (RS*, PS*, ES256, ES384, EdDSA). Default none.
    pub public_keys: Vec<PublicKey>,
    /// Key sets (RFC 7517). Default none.
    pub jwks: Vec<Jwks>,
    /// Required `iss`; empty accepts any. Default empty.
    pub issuers: Vec<String>,
    /// Required `aud`; empty accepts any. Default empty.
    pub audiences: Vec<String>,
    /// Clock difference tolerated for `exp` and `nbf`. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// Claim that names the user. Default `sub`.
    pub user_claim: String,
    /// Claim that grants projects: `{"p1":"editor"}`, or `["p1"]` with the default role. Default `projects`.
    pub projects_claim: String,
    /// What stored memberships count for beside that claim. Default `override`.
    pub memberships: Memberships,
    /// Role of a project granted without one. Default `viewer`.
    pub default_role: String,
    /// Whether `?token=` is accepted; tokens in URLs end up in logs of others. Default false.
    pub query_token: bool,
    /// How long before expiry `token_expiring` is sent. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub expiry_warning: Duration,
    /// How long a connection outlives its token. Default 25 s.
    #[serde(with = "humantime_serde")]
    pub expiry_grace: Duration,
    /// Bearer token of the admin API (`/v1/admin/…`, `/v1/publish`); empty turns that API off. At least 32
    /// characters. Default empty.
    pub admin_token: String,
}

/// What decides who is in a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memberships {
    /// The token's claim alone.
    Token,
    /// What is stored of a user in a project; where nothing is, the token's claim.
    #[default]
    Override,
    /// What is stored alone.
    Hub,
}

/// A shared secret.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hmac {
    /// The token header's `kid`; empty matches tokens without one.
    pub kid: String,
    /// `HS256`, `HS384` or `HS512`.
    pub algorithm: String,
    /// The secret: at least as many bytes as the hash (RFC 7518, section 3.2).
    pub secret: String,
}

/// A public key in a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublicKey {
    /// The token header's `kid`; empty matches tokens without one.
    pub kid: String,
    /// `RS256`…`RS512`, `PS256`…`PS512`, `ES256`, `ES384` or `EdDSA`.
    pub algorithm: String,
    /// The PEM file.
    pub pem_file: PathBuf,
}

/// A key set, from a file or a URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwks {
    /// The file; read again when it changes.
    pub file: PathBuf,
    /// The URL; exactly one of `file` and `url` is set.
    pub url: String,
    /// How long a fetched set is used before it is fetched again. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
}

impl Default for Jwks {
    fn default() -> Self {
        Self { file: PathBuf::new(), url: String::new(), refresh: Duration::from_secs(600) }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            hmac: Vec::new(),
            public_keys: Vec::new(),
            jwks: Vec::new(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(5),
            user_claim: "sub".into(),
            projects_claim: "projects".into(),
            memberships: Memberships::default(),
            default_role: "viewer".into(),
            query_token: false,
            expiry_warning: Duration::from_secs(60),
            expiry_grace: Duration::from_secs(25),
            admin_token: String::new(),
        }
    }
}
