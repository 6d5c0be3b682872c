//! The load generator: thousands of WebSocket connections on one thread, each scenario one JSON line.
//!
//! It must be much cheaper than what it measures, so it owns its event loop ([`pool`]) and its framing,
//! and looks into JSON only as far as a scenario needs.

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};

mod flow;
mod join;
mod meter;
mod ops;
mod pool;
mod scenario;
mod target;

use scenario::{connect, fanout, idle, latency, ping, presence, stalled, storm, writes};

#[derive(Debug, Parser)]
#[command(about = "Load generator for Syncline; prints one JSON line per scenario", version)]
struct Options {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Closed loop: publications to rooms, every delivery counted.
    Fanout(fanout::Options),
    /// Open loop: a steady rate of deliveries, latency from the scheduled time.
    Latency(latency::Options),
    /// Publisher on one instance, subscribers on another, against both on one.
    Bridge(latency::BridgeOptions),
    /// Memory and CPU of connections that only stay.
    Idle(idle::Options),
    /// Connect, verify the token, join a room.
    Connect(connect::Options),
    /// Drop everyone at once, write meanwhile, let everyone resume.
    Storm(storm::Options),
    /// Application pings.
    Ping(ping::Options),
    /// Durable writes and their verdicts.
    Writes(writes::Options),
    /// Joins, leaves and state updates.
    PresenceChurn(presence::Options),
    /// Connections that stop reading beside healthy ones.
    Stalled(stalled::Options),
}

fn main() -> Result<()> {
    let files = load_tests::files::raise_limit();
    let (name, common, result) = match Options::parse().scenario {
        Scenario::Fanout(o) => ("fanout", o.common.clone(), fanout::run(&o)),
        Scenario::Latency(o) => ("latency", o.common.clone(), latency::run(&o)),
        Scenario::Bridge(o) => ("bridge", o.common.clone(), latency::bridge(&o)),
        Scenario::Idle(o) => ("idle", o.common.clone(), idle::run(&o)),
        Scenario::Connect(o) => ("connect", o.common.clone(), connect::run(&o)),
        Scenario::Storm(o) => ("storm", o.common.clone(), storm::run(&o)),
        Scenario::Ping(o) => ("ping", o.common.clone(), ping::run(&o)),
        Scenario::Writes(o) => ("writes", o.common.clone(), writes::run(&o)),
        Scenario::PresenceChurn(o) => ("presence-churn", o.common.clone(), presence::run(&o)),
        Scenario::Stalled(o) => ("stalled", o.common.clone(), stalled::run(&o)),
    };
    let mut line = Map::new();
    line.insert("scenario".into(), json!(name));
    line.insert("target".into(), json!(common.target));
    line.insert("url".into(), json!(common.url.to_string()));
    line.insert("open_files".into(), json!(files));
    line.extend(result?);
    println!("{}", Value::Object(line));
    Ok(())
}
