//! Where Redis is: the `[bus] url` as connection settings.
//!
//! Used by the command link and by the bus. The URL carries a password, so no error text repeats it.

use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, IntoConnectionInfo};

use super::BusError;

/// One server, or the seeds of a Cluster (at least one).
#[derive(Clone)]
pub(crate) enum Address {
    Single(Box<ConnectionInfo>),
    Cluster(Vec<ConnectionInfo>),
}

impl Address {
    /// Reads `redis://…`, `rediss://…`, `redis+cluster://…` or `rediss+cluster://…`; `None` for `local`.
    pub(crate) fn parse(url: &str) -> Result<Option<Self>, BusError> {
        if url == "local" {
            return Ok(None);
        }
        let (scheme, rest) = url.split_once("://").ok_or(BusError::InvalidUrl)?;
        match scheme {
            "redis" | "rediss" => Ok(Some(Self::Single(Box::new(server(url)?)))),
            "redis+cluster" => Ok(Some(Self::Cluster(seeds("redis", rest)?))),
            "rediss+cluster" => Ok(Some(Self::Cluster(seeds("rediss", rest)?))),
            _ => Err(BusError::InvalidUrl),
        }
    }
}

/// `[user:password@]host:port[,host:port…]`: every seed takes the same credentials.
fn seeds(scheme: &str, rest: &str) -> Result<Vec<ConnectionInfo>, BusError> {
    let (credentials, hosts) = match rest.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), rest),
    };
    hosts.split(',').map(|host| server(&format!("{scheme}://{credentials}{host}"))).collect()
}

fn server(url: &str) -> Result<ConnectionInfo, BusError> {
    let info = url.into_connection_info().map_err(|_| BusError::InvalidUrl)?;
    Ok(info.set_tcp_settings(tcp_settings()))
}

/// Without `TCP_NODELAY` (the client's default) a small command may wait 40 ms for an acknowledgement.
pub(crate) fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_is_understood() {
        assert!(Address::parse("local").unwrap().is_none());
        assert!(matches!(Address::parse("redis://h:1"), Ok(Some(Address::Single(_)))));
        let Ok(Some(Address::Cluster(seeds))) = Address::parse("redis+cluster://u:p%40@a:1,b:2")
        else {
            panic!("not a cluster");
        };
        let seen: Vec<_> = seeds
            .iter()
            .map(|seed| (seed.addr().to_string(), seed.redis_settings().password()))
            .collect();
        assert_eq!(seen, [("a:1".to_owned(), Some("p@")), ("b:2".to_owned(), Some("p@"))]);
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for url in ["", "redis", "http://x", "redis://:s3cret@", "redis+cluster://:s3cret@a:x"] {
            let error = Address::parse(url).err().expect("a bad url was accepted");
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
    }
}
