//! `docs/PROTOCOL.md` says what is implemented: its examples are read, and it names every code.

use serde_json::Value;
use syncline::auth::Revocation;
use syncline::config::Limits;
use syncline::id::{EntityKey, Room, Seq};
use syncline::protocol::client::{self, ClientFrame, Kind, Write};
use syncline::protocol::error::{CloseCode, ErrorCode};
use syncline::protocol::sums;

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// The text of a second-level section.
fn section(title: &str) -> &'static str {
    let start = DOCUMENT.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no {title}"));
    let rest = &DOCUMENT[start + 4..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// The JSON examples of a section, each under the heading it stands under.
fn examples(section: &str) -> Vec<(&str, &str)> {
    let (mut heading, mut found, mut lines) = ("", Vec::new(), section.lines());
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title.split(' ').next().unwrap();
        } else if line == "```json" {
            found.push((heading, lines.next().unwrap()));
        }
    }
    found
}

#[test]
fn every_frame_a_client_can_send_has_an_example_that_is_read() {
    let examples = examples(section("What a client says"));
    for (heading, text) in &examples {
        let request = client::decode(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let json: Value = serde_json::from_str(text).unwrap();
        assert_eq!(json["type"], **heading);
        match request.frame {
            ClientFrame::Write(write) => {
                write.ops.iter().for_each(|op| drop(Write::op(op).unwrap()));
            }
            ClientFrame::Subscribe(subscribe) => {
                subscribe.rooms.iter().for_each(|asked| drop(asked.room.parse::<Room>().unwrap()));
            }
            _ => {}
        }
    }
    for kind in Kind::ALL.iter().map(|kind| kind.as_str()) {
        assert!(examples.iter().any(|(heading, _)| *heading == kind), "no example of {kind}");
    }
}

#[test]
fn every_frame_the_hub_can_send_has_an_example() {
    let examples = examples(section("What the hub says"));
    for (heading, text) in &examples {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(json["type"], **heading);
    }
    // The variants as the source has them, so that a new one is not forgotten.
    let source = include_str!("../../src/protocol/server.rs");
    let start = source.find("pub enum ServerFrame").unwrap();
    let body = &source[start..start + source[start..].find("\n}").unwrap()];
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?;
        let ends = name.find([' ', '(', ','])?;
        name.starts_with(|c: char| c.is_ascii_uppercase()).then(|| &name[..ends])
    });
    let mut count = 0;
    for variant in variants {
        let name: String = variant
            .char_indices()
            .flat_map(|(at, c)| {
                let dash = (at > 0 && c.is_ascii_uppercase()).then_some('_');
                dash.into_iter().chain([c.to_ascii_lowercase()])
            })
            .collect();
        assert!(examples.iter().any(|(heading, _)| *heading == name), "no example of {name}");
        count += 1;
    }
    assert!(count > 15, "the source was not understood");
}

#[test]
fn every_code_is_documented() {
    let (errors, codes) = (section("Errors"), section("Close codes"));
    for code in ErrorCode::ALL {
        assert!(errors.contains(&format!("| `{}` |", code.as_str())), "{code:?}");
    }
    for code in CloseCode::ALL {
        assert!(codes.contains(&format!("| {} | `{}` |", code.code(), code.reason())), "{code:?}");
    }
}

#[test]
fn every_limit_and_revocation_is_documented() {
    let limits = serde_json::to_value(Limits::default()).unwrap();
    let documented = section("Limits");
    // How fast the hub itself reads its store is no business of clients.
    let internal = ["catch_up_bytes", "catch_ups", "recent_bytes"];
    for name in limits.as_object().unwrap().keys().filter(|name| !internal.contains(&&***name)) {
        assert!(documented.contains(&format!("`{name}`")), "{name}");
    }
    let revocations =
        examples(section("HTTP")).into_iter().filter(|(heading, _)| *heading == "Administrators");
    let read = revocations.map(|(_, text)| serde_json::from_str::<Revocation>(text).unwrap());
    assert_eq!(read.count(), 4);
}

#[test]
fn the_documented_checksums_are_those_of_the_hub() {
    let rows = section("Checksums").lines().filter(|line| line.starts_with("| `"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let key = EntityKey { kind: cells[0].parse().unwrap(), id: cells[1].parse().unwrap() };
        assert_eq!(sums::bucket(&key).to_string(), cells[3], "{row}");
        let version = Seq(cells[2].parse().unwrap());
        assert_eq!(format!("{:016x}", sums::entry(&key, version)), cells[4], "{row}");
        count += 1;
    }
    assert_eq!(count, 4);
}
