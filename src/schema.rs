//! The wire as JSON Schema, for the clients' types: made from the types the hub itself reads and writes.
//!
//! `clients/typescript/schema/` holds what this makes. A test compares; with `SYNCLINE_WRITE=1` it writes
//! them anew.

use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::protocol::client::{
    Ack, Broadcast, Connect, PushDevice, Refresh, RequestId, SentWrite, SetPresence, Subscribe,
    Unsubscribe,
};
use crate::protocol::conflict::Conflict;
use crate::protocol::error::{CloseCode, ErrorCode};
use crate::protocol::op::EntityState;
use crate::protocol::server::{PresenceList, ServerFrame};

/// A frame of a client: its type and, if it wants an answer, its id, beside the fields of the type.
fn request<T: JsonSchema>(generator: &mut SchemaGenerator, kind: &str, title: &str) -> Value {
    let mut schema = T::json_schema(generator).to_value();
    schema["title"] = title.into();
    schema["properties"]["type"] = json!({ "const": kind });
    schema["properties"]["id"] = generator.subschema_for::<RequestId>().to_value();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    schema["required"] = [vec!["type".into()], required].concat().into();
    schema
}

#[derive(JsonSchema)]
struct Ping {}

fn client_schema() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let of = &mut generator;
    let frames = [
        request::<Connect>(of, "connect", "ConnectFrame"),
        request::<Refresh>(of, "refresh", "RefreshFrame"),
        request::<Subscribe>(of, "subscribe", "SubscribeFrame"),
        request::<Unsubscribe>(of, "unsubscribe", "UnsubscribeFrame"),
        request::<SentWrite>(of, "write", "WriteFrame"),
        request::<Broadcast>(of, "broadcast", "BroadcastFrame"),
        request::<SetPresence>(of, "presence", "PresenceFrame"),
        request::<Ack>(of, "ack", "AckFrame"),
        request::<PushDevice>(of, "push_device", "PushDeviceFrame"),
        request::<Ping>(of, "ping", "PingFrame"),
    ];
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "ClientFrame",
        "description": "What a client says.",
        "oneOf": frames,
        "definitions": generator.take_definitions(true),
    })
}

fn server_schema() -> Value {
    let mut generator = SchemaSettings::draft07().for_serialize().into_generator();
    // Answers over HTTP speak of these, too.
    generator.subschema_for::<EntityState>();
    generator.subschema_for::<ErrorCode>();
    generator.subschema_for::<Conflict>();
    generator.subschema_for::<PresenceList>();
    let mut schema = ServerFrame::json_schema(&mut generator).to_value();
    for variant in schema["oneOf"].as_array_mut().expect("it is an enum") {
        let kind = variant["properties"]["type"]["const"].as_str().expect("it is tagged");
        let words = kind.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        variant["title"] = format!("Server{}Frame", words.collect::<String>()).into();
    }
    let close: Value = CloseCode::ALL.iter().map(|code| Value::from(code.code())).collect();
    let mut definitions = generator.take_definitions(true);
    definitions.insert("CloseCode".into(), json!({ "type": "integer", "enum": close }));
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "ServerFrame".into();
    schema["definitions"] = definitions.into();
    schema
}

#[test]
fn the_checked_in_schemas_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/typescript/schema");
    for (name, schema) in [("client", client_schema()), ("server", server_schema())] {
        let file = dir.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("SYNCLINE_WRITE").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let advice = "run `SYNCLINE_WRITE=1 cargo test --lib schema`, then `npm run types`";
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(kept == text, "{} is not current: {advice}", file.display());
    }
}
