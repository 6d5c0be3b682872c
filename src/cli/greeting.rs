//! What `serve --dev` tells a person who tries the hub: where it is, two tokens, lines to paste.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::auth::mint;
use crate::clock;
use crate::config::{Config, DevInfo};

/// How long the tokens are good.
const TTL: Duration = Duration::from_hours(12);

/// The text, for a hub that listens on these addresses. `program` is how it was called.
pub(super) fn greeting(
    config: &Config,
    info: &DevInfo,
    address: SocketAddr,
    admin: SocketAddr,
    program: &str,
) -> anyhow::Result<String> {
    let mut text = format!(
        "
Syncline is running, for development. Its data is in {data}/

  WebSocket    ws://{address}/v1/ws
  HTTP         http://{address}/v1/
  Operators    http://{admin}/health/ready and /metrics
",
        data = info.data.display()
    );
    if config.server.demo {
        text += &format!("  Demo page    http://{address}/  (open it in a browser)\n");
    }
    if let Some(file) = &info.admin_token_file {
        text += &format!("  Admin token  {}\n", file.display());
    }
    if let (Some(_), Some(key)) = (&info.secret_file, config.auth.hmac.first()) {
        let now = clock::now_s();
        let expires = now + i64::try_from(TTL.as_secs())?;
        let token = |user: &str, role: &str| {
            mint(
                key,
                &json!({ "sub": user, "projects": { "demo": role }, "iat": now, "exp": expires }),
            )
        };
        text += &tour(&token("ana", "editor")?, &token("bo", "viewer")?, address, program);
    }
    Ok(text + "\n")
}

fn tour(ana: &str, bo: &str, address: SocketAddr, program: &str) -> String {
    format!(
        r#"
Two tokens for the project `demo`, good for 12 hours. Paste them into two terminals:

  export ANA={ana}
  export BO={bo}

Follow the project in the first (any WebSocket client will do, for example
`npx wscat -c ws://{address}/v1/ws -s syncline.v1 -s bearer.$BO`, then send
{{"type":"subscribe","id":1,"rooms":[{{"room":"project:demo","since":0}}]}}):

  {program} tail --url ws://{address} --token $BO --room project:demo --since 0

Write in the second, and see the change arrive in the first:

  curl -H "Authorization: Bearer $ANA" http://{address}/v1/projects/demo/ops \
    -d '{{"ops":[{{"op_id":"'$(date +%s%N)'","kind":"create","type":"task","id":"t-'$(date +%s)'","fields":{{"title":"Hello"}}}}]}}'
"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::auth::Authenticator;
    use crate::config;
    use crate::protocol::client;
    use crate::protocol::op::Op;

    #[test]
    fn the_tokens_shown_are_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.url = format!("sqlite:{}", dir.path().join("hub.db").display());
        let (config, info) = config::dev(config).unwrap();
        let address = ([127, 0, 0, 1], 8080).into();
        let text = greeting(&config, &info, address, address, "syncline").unwrap();
        let auth = Authenticator::new(&config.auth).unwrap();
        for name in ["ANA", "BO"] {
            let start = text.find(&format!("export {name}=")).unwrap() + 8 + name.len();
            let token = text[start..].lines().next().unwrap();
            let claims = auth.try_verify(token, clock::now_s()).unwrap();
            assert_eq!(claims.user.as_str(), name.to_lowercase());
        }
        assert!(!text.contains(&config.auth.hmac[0].secret), "the secret stays secret");
    }

    #[test]
    fn what_is_shown_to_be_pasted_is_understood() {
        let text = tour("ana", "bo", ([127, 0, 0, 1], 8080).into(), "syncline");
        let frame = text.lines().find(|line| line.starts_with('{')).unwrap();
        let frame = frame.trim_end_matches("):");
        assert!(client::decode(frame).is_ok(), "{frame}");
        let body = text.split_once("-d '").unwrap().1.trim_end().trim_end_matches('\'');
        // As the shell puts it together.
        let body = body.replace("'$(date +%s%N)'", "1").replace("'$(date +%s)'", "1");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(serde_json::from_value::<Op>(body["ops"][0].clone()).is_ok(), "{body}");
    }
}
