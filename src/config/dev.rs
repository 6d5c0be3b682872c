//! What `--dev` adds, so that one command gives a working hub: a key, an admin token and the demo page.
//!
//! The secrets are random and kept in the data directory, so that tokens survive a restart. What the
//! configuration sets itself stays.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Config, Entity, Field, Hmac};
use crate::protocol::conflict::{Merge, Strategy};

/// What was added for development, for `serve` to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevInfo {
    /// Where the data is.
    pub data: PathBuf,
    /// The file of the secret that tokens are signed with; `None` if the configuration has a key.
    pub secret_file: Option<PathBuf>,
    /// The file of the admin token; `None` if the configuration has one.
    pub admin_token_file: Option<PathBuf>,
}

/// The directory of the SQLite file; `data` for other stores.
#[must_use]
pub fn data_dir(config: &Config) -> PathBuf {
    let file = config.store.url.strip_prefix("sqlite:").map(|path| path.trim_start_matches("//"));
    let file = file.map(|path| path.split('?').next().unwrap_or(path));
    match file.map(|file| Path::new(file).parent()) {
        Some(Some(parent)) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(Some(parent)) => parent.to_owned(),
        _ => PathBuf::from("data"),
    }
}

/// Adds what a configuration lacks for trying the hub out.
///
/// # Errors
/// The data directory or a file in it cannot be made or read.
pub fn dev(mut config: Config) -> io::Result<(Config, DevInfo)> {
    let data = data_dir(&config);
    fs::create_dir_all(&data).map_err(|error| named(&data, &error))?;
    let mut info = DevInfo { data, secret_file: None, admin_token_file: None };
    let auth = &mut config.auth;
    if auth.hmac.is_empty() && auth.public_keys.is_empty() && auth.jwks.is_empty() {
        let file = info.data.join("dev-secret");
        let secret = persisted(&file)?;
        auth.hmac.push(Hmac { kid: String::new(), algorithm: "HS256".into(), secret });
        info.secret_file = Some(file);
    }
    if auth.admin_token.is_empty() {
        let file = info.data.join("dev-admin-token");
        auth.admin_token = persisted(&file)?;
        info.admin_token_file = Some(file);
    }
    // Who listens for others tries nothing out.
    config.server.demo |= config.server.listen.ip().is_loopback();
    config.entities.0.entry(CARD.to_owned()).or_insert_with(card);
    Ok((config, info))
}

/// The type of the demo page's entities.
const CARD: &str = "card";

/// Cards show three ways for two edits to meet: the user is asked, both count, the server's stands.
fn card() -> Entity {
    let asked = Field { strategy: Some(Strategy::Manual), ..Field::default() };
    let counted = Field { merge: Some(Merge::Counter), ..Field::default() };
    let fields = [("title", asked), ("votes", counted)];
    Entity {
        fields: fields.map(|(name, field)| (name.to_owned(), field)).into(),
        ..Entity::default()
    }
}

/// The secret in `file`; a new random one, readable by its owner only, if there is none.
fn persisted(file: &Path) -> io::Result<String> {
    let fresh = hex::encode(rand::random::<[u8; 32]>());
    let secret = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut new) => new.write_all(fresh.as_bytes()).map(|()| fresh),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => fs::read_to_string(file),
        Err(error) => Err(error),
    };
    let secret = secret.map_err(|error| named(file, &error))?.trim().to_owned();
    if secret.len() < 32 {
        let what = "holds no secret of 32 characters; delete it, and a new one is made";
        return Err(io::Error::new(ErrorKind::InvalidData, format!("{} {what}", file.display())));
    }
    Ok(secret)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(dir: &tempfile::TempDir) -> Config {
        let mut config = Config::default();
        config.store.url = format!("sqlite:{}/deep/syncline.db", dir.path().display());
        config
    }

    #[test]
    fn dev_secrets_survive_a_restart_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let (first, info) = dev(config(&dir)).unwrap();
        let (second, _) = dev(config(&dir)).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.validate(), []);
        assert_ne!(first.auth.hmac[0].secret, first.auth.admin_token);
        for file in [info.secret_file.unwrap(), info.admin_token_file.unwrap()] {
            assert!(file.starts_with(dir.path().join("deep")), "{}", file.display());
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn dev_keeps_what_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let mut own = config(&dir);
        own.auth.hmac =
            vec![Hmac { kid: "a".into(), algorithm: "HS256".into(), secret: "s".repeat(32) }];
        own.auth.admin_token = "t".repeat(32);
        own.entities.0.insert(CARD.into(), Entity::default());
        own.server.listen = ([192, 0, 2, 1], 8080).into();
        let (config, info) = dev(own.clone()).unwrap();
        assert_eq!((config, info.secret_file, info.admin_token_file), (own, None, None));
    }

    #[test]
    fn a_spoilt_secret_file_is_named_not_used() {
        let dir = tempfile::tempdir().unwrap();
        dev(config(&dir)).unwrap();
        let file = dir.path().join("deep/dev-secret");
        fs::write(&file, "short").unwrap();
        let error = dev(config(&dir)).unwrap_err().to_string();
        assert!(error.contains("dev-secret") && !error.contains("short"), "{error}");
    }

    #[test]
    fn the_data_directory_is_the_database_files() {
        for (url, dir) in [
            ("sqlite:data/syncline.db", "data"),
            ("sqlite:/var/lib/syncline/a.db", "/var/lib/syncline"),
            ("sqlite:///var/lib/a.db?mode=rwc", "/var/lib"),
            ("sqlite:a.db", "."),
            ("postgres://h/d", "data"),
        ] {
            let mut config = Config::default();
            config.store.url = url.into();
            assert_eq!(data_dir(&config), Path::new(dir), "{url}");
        }
    }
}
