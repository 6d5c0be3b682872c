//! Reading and checking a configuration, as an operator meets it.

use std::fs;

use super::*;

/// The reference: every key, its meaning, its default.
const REFERENCE: &str = include_str!("../../config/syncline.toml");

/// A key that makes any other configuration valid.
const KEY: &str =
    "[[auth.hmac]]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn try_load(
    text: &str,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("syncline.toml");
    fs::write(&file, text).unwrap();
    let place = format!("{}/", dir.path().display());
    load(Some(&file), pairs(env).into_iter(), &pairs(flags)).map_err(|errors| {
        errors.0.iter().map(|problem| problem.to_string().replace(&place, "")).collect()
    })
}

/// The problems of a configuration whose keys are fine.
fn problems(text: &str) -> Vec<String> {
    try_load(&format!("{KEY}{text}"), &[], &[]).err().unwrap_or_default()
}

#[test]
fn the_reference_holds_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("syncline.toml");
    fs::write(&file, REFERENCE).unwrap();
    let loaded = read(Some(&file), std::iter::empty(), &[]);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn the_reference_names_every_key() {
    // `# text` is prose, `#key = value` an example.
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.starts_with(' ') => example.to_owned(),
        _ => line.to_owned(),
    };
    let text: String = REFERENCE.lines().map(|line| uncomment(line) + "\n").collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("syncline.toml");
    fs::write(&file, &text).unwrap();
    let loaded = read(Some(&file), std::iter::empty(), &[]);
    assert_eq!(loaded.problems, []);
    for key in schema::keys() {
        let named = |other: &str| {
            let parts = other.split('.').zip(key.split('.'));
            other.split('.').count() == key.split('.').count()
                && parts.into_iter().all(|(part, wanted)| wanted == schema::ANY || part == wanted)
        };
        let found = loaded.origins.keys().any(|other| named(other));
        assert!(found, "config/syncline.toml lacks {key}");
    }
    let examples = loaded.config.validate();
    let named = ["auth.public_keys.0.pem_file", "push.rules.0.template"];
    let missing_file = |p: &Problem| named.contains(&p.key.as_str());
    assert!(examples.iter().all(missing_file), "an example is wrong: {examples:?}");
}

#[test]
fn later_sources_win() {
    let config = try_load(
        &format!("{KEY}[limits]\nrooms = 1\nconnections = 1\n[log]\nfilter = \"warn\"\n"),
        &[("SYNCLINE_LIMITS__ROOMS", "2"), ("SYNCLINE_LIMITS__CONNECTIONS", "2"), ("HOME", "/")],
        &[("limits.connections", "3")],
    )
    .unwrap();
    assert_eq!((config.limits.rooms, config.limits.connections), (2, 3));
    assert_eq!(config.log.filter, "warn");
    assert_eq!(config.server, Server::default());
}

#[test]
fn the_type_of_the_key_decides_what_a_text_is() {
    let config = try_load(
        KEY,
        &[
            ("SYNCLINE_AUTH__HMAC__0__KID", "2024"),
            ("SYNCLINE_AUTH__HMAC__0__SECRET", "12345678901234567890123456789012"),
            ("SYNCLINE_AUTH__QUERY_TOKEN", "true"),
            ("SYNCLINE_AUTH__USER_CLAIM", "true"),
            ("SYNCLINE_BUS__PREFIX", "\"quoted\""),
            ("SYNCLINE_SERVER__LISTEN", "[::]:80"),
            ("SYNCLINE_SERVER__PING_INTERVAL", "1m"),
            ("SYNCLINE_SERVER__ALLOWED_ORIGINS", r#"["https://a.example", "*"]"#),
            ("SYNCLINE_LOG__FORMAT", "json"),
            ("SYNCLINE_ROLES", "{ viewer = { read = [\"task\"] } }"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(config.auth.hmac[0].kid, "2024");
    assert_eq!(config.auth.hmac[0].secret, "12345678901234567890123456789012");
    assert_eq!((config.auth.query_token, &*config.auth.user_claim), (true, "true"));
    assert_eq!(config.bus.prefix, "quoted");
    assert_eq!(config.server.listen.port(), 80);
    assert_eq!(config.server.ping_interval.as_secs(), 60);
    assert_eq!(config.server.allowed_origins, ["https://a.example", "*"]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn lists_are_set_whole_or_by_index() {
    let secret = "s".repeat(48);
    let config = try_load(
        KEY,
        &[
            ("SYNCLINE_AUTH__HMAC__1__ALGORITHM", "HS384"),
            ("SYNCLINE_AUTH__HMAC__1__SECRET", &secret),
            ("SYNCLINE_SERVER__TRUSTED_PROXIES__0", "10.0.0.1"),
        ],
        &[("server.trusted_proxies.1", "10.0.0.2")],
    )
    .unwrap();
    assert_eq!(config.auth.hmac.len(), 2);
    assert_eq!(config.auth.hmac[0].algorithm, "HS256");
    assert_eq!(config.auth.hmac[1].secret, secret);
    assert_eq!(config.server.trusted_proxies.len(), 2);

    let errors = try_load(KEY, &[("SYNCLINE_AUTH__HMAC__7__KID", "x")], &[]).unwrap_err();
    assert_eq!(
        errors,
        [
            "error: auth.hmac.7 (SYNCLINE_AUTH__HMAC__7__KID): the list has 1 entries; the next one is number 1"
        ]
    );
}

#[test]
fn ten_and_more_entries_are_taken_in_order() {
    let names: Vec<_> = (0..12).map(|n| format!("SYNCLINE_AUTH__ISSUERS__{n}")).collect();
    let env: Vec<_> = names.iter().rev().map(|name| (&**name, "x")).collect();
    assert_eq!(try_load(KEY, &env, &[]).unwrap().auth.issuers.len(), 12);
}

#[test]
fn naming_a_role_replaces_the_defaults() {
    let text = format!("{KEY}[roles.viewer]\nread = [\"task\"]\n[roles.42]\n");
    let config = try_load(&text, &[], &[]).unwrap();
    assert_eq!(config.roles.0.keys().collect::<Vec<_>>(), ["42", "viewer"]);
    let config = try_load(&format!("{KEY}[roles]\n"), &[], &[]).unwrap();
    assert_eq!(config.roles, Roles::default());
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let text = format!(
        "{KEY}[server]\nlisen = \"x\"\nping_interval = 25\nrooms = 3\n[limts]\nrooms = 3\n[auth.jwks]\n"
    );
    let errors = try_load(
        &text,
        &[("SYNCLINE_SERVR__SHARDS", "2"), ("SYNCLINE_SERVER__SHARDS", "two")],
        &[("limits.connections", "-1"), ("server.pong_timeout", "9"), ("log", "debug")],
    )
    .unwrap_err();
    assert_eq!(
        errors,
        [
            "error: server.lisen (syncline.toml:5): there is no such key\n  help: did you mean `server.listen`?",
            "error: server.ping_interval (syncline.toml:6): expected a duration such as `25s` or `500ms`, got 25\n  help: seconds are written `\"25s\"`",
            "error: server.rooms (syncline.toml:7): there is no such key\n  help: did you mean `limits.rooms`?",
            "error: limts (syncline.toml:8): there is no such key\n  help: did you mean `limits`?",
            "error: auth.jwks (syncline.toml:10): expected a list of tables, `[[auth.jwks]]`, got a table",
            "error: server.shards (SYNCLINE_SERVER__SHARDS): expected a whole number, 0 or more, got \"two\"",
            "error: servr.shards (SYNCLINE_SERVR__SHARDS): there is no such key\n  help: did you mean `SYNCLINE_SERVER__SHARDS`?",
            "error: limits.connections (--set limits.connections): expected a whole number, 0 or more, got \"-1\"",
            "error: server.pong_timeout (--set server.pong_timeout): expected a duration such as `25s` or `500ms`, got \"9\"\n  help: seconds are written `9s`",
            "error: log (--set log): expected a table, got \"debug\"",
        ]
    );
}

#[test]
fn broken_toml_is_told_by_line_and_hides_no_other_source() {
    let errors =
        try_load("[server\nlisten = x\n", &[("SYNCLINE_SERVER__SHARD", "1")], &[]).unwrap_err();
    assert!(errors[0].starts_with("error: syncline.toml:1: this is not TOML: "), "{errors:?}");
    assert!(errors.iter().any(|e| e.contains("SYNCLINE_SERVER__SHARDS")), "{errors:?}");
    assert!(!errors.iter().any(|e| e.contains("no key is configured")), "{errors:?}");

    let missing = load(Some("/nowhere/x.toml".as_ref()), std::iter::empty(), &[]).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/x.toml: the configuration file cannot be read"));
}

#[test]
fn variables_of_orchestrators_are_let_be_but_one_underscore_is_told() {
    let env = [
        ("SYNCLINE_PORT", "tcp://10.0.0.1:8080"),
        ("SYNCLINE_SERVICE_HOST", "10.0.0.1"),
        ("SYNCLINE_CONFIG", "/x"),
        ("SYNCLINE_SERVER_LISTEN", "0.0.0.0:80"),
    ];
    assert_eq!(
        try_load(KEY, &env, &[]).unwrap_err(),
        ["error: server.listen (SYNCLINE_SERVER_LISTEN): this variable sets nothing\n  \
          help: two underscores part the names: `SYNCLINE_SERVER__LISTEN`"]
    );
}

#[test]
fn no_secret_is_in_an_error() {
    const WORD: &str = "hush hush";
    let text = format!(
        "[[auth.hmac]]\nalgorithm = \"HS256\"\nsecret = \"{WORD}\"\nsecrte = \"{WORD}\"\n\
         [auth]\nadmin_token = \"{WORD}\"\n[store]\nurl = \"mysql://u:{WORD}@h/d\"\n\
         [bus]\nurl = [\"{WORD}\"]\n[[ingest.sources]]\nname = \"a\"\nsecret = \"{WORD}\"\n\
         [[ingest.sources]]\nsecret = 77123\n"
    );
    let env = [("SYNCLINE_STORE__URI", WORD), ("SYNCLINE_AUTH__HMAC__0__SECRET", "[1, 77123]")];
    for text in [text.clone(), format!("{text}x = \"{WORD}")] {
        let errors = try_load(&text, &env, &[]).unwrap_err();
        assert!(!errors.is_empty());
        assert!(!format!("{errors:?}").contains(WORD), "{errors:?}");
        assert!(!format!("{errors:?}").contains("77123"), "{errors:?}");
    }
}

#[test]
fn a_hub_without_keys_is_refused_unless_the_command_needs_none() {
    let errors = try_load("", &[], &[]).unwrap_err();
    assert!(errors[0].contains("no key is configured"), "{errors:?}");
    let loaded = read(None, std::iter::empty(), &[]);
    assert!(loaded.checked_for(|key| key.starts_with("store.")).is_ok());
}

#[test]
fn a_problem_of_meaning_says_where_its_value_came_from() {
    let text =
        "[[auth.hmac]]\nkid = \"a\"\nalgorithm = \"HS512\"\nsecret = \"short\"\n[[auth.jwks]]\n";
    assert_eq!(
        try_load(text, &[("SYNCLINE_PRESENCE__LEASE", "6s")], &[]).unwrap_err(),
        [
            "error: auth.hmac.0.secret (syncline.toml:4): HS512 needs 64 bytes or more, got 5\n  \
             help: make one with `openssl rand -hex 64`",
            "error: auth.jwks.0 (syncline.toml:5): set exactly one of `file` and `url`",
            "error: presence.lease (SYNCLINE_PRESENCE__LEASE): must be longer than two `presence.heartbeat`\n  \
             help: a lost heartbeat must not make everybody of an instance leave",
        ]
    );
}

#[test]
fn each_check_of_meaning_finds_its_mistake() {
    for (text, told) in [
        ("[server]\nadmin_listen = \"127.0.0.1:8080\"", "server.admin_listen"),
        ("[server]\nlisten = \"0.0.0.0:9090\"", "server.admin_listen"),
        ("[server]\ndrain_spread = \"26s\"", "server.drain_spread"),
        ("[server]\naccept_backlog = -1", "server.accept_backlog"),
        (
            "[server]\nping_interval = \"0s\"",
            "server.ping_interval (syncline.toml:5): must not be 0",
        ),
        ("[server]\nallowed_origins = [\"https://a.example/\"]", "server.allowed_origins.0"),
        ("[server]\nallowed_origins = [\"a.example\"]", "server.allowed_origins.0"),
        ("[limits]\nrooms = 0", "limits.rooms (syncline.toml:5): must not be 0"),
        ("[limits]\nop_bytes = 2_000_000", "limits.op_bytes"),
        ("[store]\nconnections = 3", "limits.catch_ups: 3 at once"),
        ("[store]\nqueue_bytes = 1_048_576", "limits.body_bytes"),
        ("[limits]\nhttp_connections = 999", "limits.http_connections_per_ip"),
        ("[auth]\ndefault_role = \"boss\"", "there is no role `boss`"),
        ("[auth]\nadmin_token = \"short\"", "auth.admin_token"),
        ("[auth]\nuser_claim = \"\"", "auth.user_claim"),
        ("[roles.viewer]\nread = [\"Task\"]", "roles.viewer.read.0"),
        ("[roles.\"a b\"]\n[roles.viewer]", "roles.a b"),
        ("[roles.viewer.hidden]\nTask = [\"a\"]", "roles.viewer.hidden.Task"),
        ("[roles.viewer.hidden]\n\"*\" = [\"a\", \"*\"]", "roles.viewer.hidden.*.1"),
        ("[store]\nurl = \"mysql://h/d\"", "names no store this hub has"),
        ("[store]\nurl = \"postgres://h\"", "names no database"),
        ("[store]\nurl = \"sqlite:\"", "names no file"),
        ("[bus]\nurl = \"nats://h\"", "names no bus this hub has"),
        ("[bus]\nurl = \"redis+cluster://a:1,b:x\"", "bus.url (syncline.toml:5): is not a URL"),
        ("[log]\nfilter = \"syncline=loud\"", "log.filter"),
        ("[[auth.hmac]]\nalgorithm = \"RS256\"", "auth.hmac.1.algorithm"),
        (
            "[[auth.hmac]]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"",
            "auth.hmac.1.kid",
        ),
        ("[[auth.public_keys]]\nalgorithm = \"HS256\"", "auth.public_keys.0.algorithm"),
        ("[[auth.public_keys]]\nalgorithm = \"ES256\"\npem_file = \"/no\"", "there is no file /no"),
        ("[[auth.jwks]]\nurl = \"ftp://x\"", "auth.jwks.0.url"),
        ("[[auth.jwks]]\nurl = \"https://x\"\nrefresh = \"0s\"", "auth.jwks.0.refresh"),
        ("[[ingest.sources]]\nname = \"a\"\nsecret = \"short\"", "ingest.sources.0.secret"),
    ] {
        let problems = problems(text);
        assert!(problems.iter().any(|problem| problem.contains(told)), "{text}: {problems:?}");
    }
    for text in [
        "[bus]\nurl = \"redis+cluster://u:p@a:1,b:2\"\n[store]\nurl = \"postgres://u:p@h/d\"",
        "[limits]\nmemory_bytes = 0\n[server]\nallowed_origins = [\"https://a.example:8443\", \"*\"]",
        "[[auth.jwks]]\nurl = \"https://x/keys\"",
    ] {
        assert_eq!(problems(text), [""; 0], "{text}");
    }
}

#[test]
fn redis_with_sqlite_is_a_warning() {
    let config = try_load(&format!("{KEY}[bus]\nurl = \"redis://h\""), &[], &[]).unwrap();
    let problems = config.validate();
    assert_eq!(problems.len(), 1);
    assert!(!problems[0].is_error() && problems[0].to_string().starts_with("warning: bus.url: "));
}
