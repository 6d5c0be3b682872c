//! What the hub tells its operators: the log on standard error, and the metrics.
//!
//! [`Metrics`] is made once in the composition root and handed to whoever counts; there are no globals.
//! Counters and gauges are plain atomics, also those with labels ([`Labelled`]); only `http_requests`
//! looks its labels up. `app` sets up the log, the admin listener serves [`Metrics::encode`].

use std::io::IsTerminal;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

mod labels;
mod process;

pub use labels::{
    AuthFailure, CatchUpSource, Closed, Counters, Delivery, Dropped, Gauges, IngestOutcome,
    IngestWay, Label, Labelled, Purged, PushEvent, PushHold, PushLane, PushState, PushVia,
    PushWait, RateLimit, Rejection, Resync, WriteOutcome,
};
pub use process::resident_memory;

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` cannot be read.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// This process has a log already.
    #[error("the log is set up already")]
    AlreadySet(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends the log of this process to standard error.
///
/// # Errors
/// The filter is wrong, or there is a log already.
pub fn init_logging(log: &Log) -> Result<(), TelemetryError> {
    let colours = std::io::stderr().is_terminal();
    let dispatch = dispatch(log, colours, std::io::stderr)?;
    // Crates that speak `log` instead of `tracing` are few here and say nothing an operator needs.
    tracing::dispatcher::set_global_default(dispatch)?;
    Ok(())
}

fn dispatch<W>(log: &Log, colours: bool, writer: W) -> Result<Dispatch, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&log.filter)?;
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    Ok(match log.format {
        LogFormat::Pretty => lines.compact().into(),
        LogFormat::Json => lines.json().flatten_event(true).into(),
    })
}

/// The content type of [`Metrics::encode`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The labels of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpRequest {
    route: String,
    status: u16,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $type:ty = $make:expr;)*) => {
        /// Every metric. Exposed with the prefix `syncline_`; counters get the suffix `_total`.
        #[derive(Debug)]
        pub struct Metrics {
            $($(#[doc = $help])+ pub $name: $type,)*
            http_requests: Family<HttpRequest, Counter>,
            registry: Registry,
        }

        impl Metrics {
            /// All at zero, every series of a closed label existing.
            #[must_use]
            pub fn new() -> Arc<Self> {
                let mut registry = Registry::default();
                registry.register_collector(Box::new(process::ProcessCollector));
                let hub = registry.sub_registry_with_prefix("syncline");
                $(
                    let (handle, exposed) = $make;
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    hub.register(stringify!($name), help, exposed);
                    let $name = handle;
                )*
                let http_requests = Family::<HttpRequest, Counter>::default();
                hub.register("http_requests", "HTTP requests answered", http_requests.clone());
                let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
                hub.register("build", "What runs", build);
                Arc::new(Self { $($name,)* http_requests, registry })
            }
        }
    };
}

/// A handle, and the same to register.
fn both<M: Clone + Default>() -> (M, M) {
    let metric = M::default();
    (metric.clone(), metric)
}

fn histogram(first: f64, factor: f64, buckets: u16) -> (Histogram, Histogram) {
    let histogram = Histogram::new(exponential_buckets(first, factor, buckets));
    (histogram.clone(), histogram)
}

metrics! {
    /// Open WebSocket connections.
    connections: Gauge = both();
    /// Open connections that are no WebSocket, or not yet.
    http_connections: Gauge = both();
    /// Connections that were accepted.
    connections_opened: Counter = both();
    /// Connections that ended, by reason.
    connections_closed: Counters<Closed> = Counters::new();
    /// Rooms somebody is in.
    rooms: Gauge = both();
    /// Subscriptions, over all connections.
    subscriptions: Gauge = both();
    /// Frames queued for a connection, by kind.
    deliveries: Counters<Delivery> = Counters::new();
    /// Bytes queued for connections.
    delivered_bytes: Counter = both();
    /// Bytes waiting in the outboxes of all connections.
    outbox_bytes: Gauge = both();
    /// What was given up because a bound was met, by reason.
    drops: Counters<Dropped> = Counters::new();
    /// Seconds from another instance's publish until it was heard here.
    bus_lag_seconds: Histogram = histogram(0.0005, 2.0, 15);
    /// Whether the link to the bus is up (1) or not (0).
    bus_link_up: Gauge = both();
    /// Messages published on the bus.
    bus_published: Counter = both();
    /// Messages heard from the bus.
    bus_received: Counter = both();
    /// Gaps in a project's sequence that were filled from the store.
    gap_fills: Counter = both();
    /// Projects brought up to their head after the bus lost something.
    heals: Counter = both();
    /// Operations, by outcome.
    writes: Counters<WriteOutcome> = Counters::new();
    /// Operations that went to the failed lane or stayed in it, by the code of their verdict.
    rejections: Counters<Rejection> = Counters::new();
    /// Operations of the failed lane that were tried again, by outcome.
    retries: Counters<WriteOutcome> = Counters::new();
    /// Seconds from a write's arrival to its verdict.
    write_seconds: Histogram = histogram(0.0005, 2.0, 15);
    /// Operations in one group commit.
    group_ops: Histogram = histogram(1.0, 2.0, 11);
    /// Times the store failed.
    store_errors: Counter = both();
    /// Catch-ups of a subscription, by what they read.
    catch_ups: Counters<CatchUpSource> = Counters::new();
    /// Cursors that were of no use, by reason.
    resyncs: Counters<Resync> = Counters::new();
    /// Events of backends, by the way they came and what became of them.
    ingest_events: Counters<(IngestWay, IngestOutcome)> = Counters::new();
    /// Entries of the ingest stream that wait.
    ingest_lag: Gauge = both();
    /// Connections of this instance that are present in a room, over all rooms.
    presence_members: Gauge = both();
    /// Joins, leaves and updates announced.
    presence_announcements: Counter = both();
    /// Tokens that were not believed, by reason.
    auth_failures: Counters<AuthFailure> = Counters::new();
    /// Requests refused for their rate or number, by what was exceeded.
    rate_limited: Counters<RateLimit> = Counters::new();
    /// Push intents that reached a state.
    push_intents: Counters<PushState> = Counters::new();
    /// What happened to pushes on devices.
    push_events: Counters<(PushEvent, (PushLane, PushVia))> = Counters::new();
    /// Seconds from the event to the provider's acceptance, lane critical.
    push_critical_seconds: Histogram = histogram(0.01, 2.0, 16);
    /// Seconds from the event to the provider's acceptance, lane high.
    push_high_seconds: Histogram = histogram(0.01, 2.0, 16);
    /// Seconds from the event to the provider's acceptance, lane normal.
    push_normal_seconds: Histogram = histogram(0.01, 2.0, 16);
    /// Pushes that have not ended, over all instances, by what they wait for.
    push_queue: Gauges<PushWait> = Gauges::new();
    /// Seconds since the event of the oldest that waits to be sent.
    push_queue_oldest_seconds: Gauge = both();
    /// Times this instance looked after the push queue: leases, expiry, breakers.
    push_tends: Counter = both();
    /// Whether the provider gets nothing, or is doubted (1), or not (0), by reason.
    push_held: Gauges<PushHold> = Gauges::new();
    /// Times a provider's breaker opened: it fails, or does not accept the credentials.
    push_breakers_opened: Counter = both();
    /// Answers that a push's own project has wrong credentials, or its token belongs to another sender.
    push_misconfigured: Counter = both();
    /// Times so many push tokens were dead at once that none was disabled.
    push_spikes: Counter = both();
    /// Rows purged because they were past their time, by table.
    retention_purged: Counters<Purged> = Counters::new();
    /// When this instance last purged, in seconds since the Unix epoch; 0 if it never did.
    retention_last_run: Gauge = both();
}

impl Metrics {
    /// Seconds from the event to the provider's acceptance.
    #[must_use]
    pub fn push_seconds(&self, lane: PushLane) -> &Histogram {
        match lane {
            PushLane::Critical => &self.push_critical_seconds,
            PushLane::High => &self.push_high_seconds,
            PushLane::Normal => &self.push_normal_seconds,
        }
    }

    /// Counts what happened to a push on a device, as it stands in the store.
    pub fn push_event(&self, lane: &str, event: &str, provider: &str) {
        let via = (PushLane::read(lane), PushVia::read(provider));
        self.push_events.of((PushEvent::read(event), via)).inc();
    }

    /// Counts an answered HTTP request. `route` is the route's pattern, never the path asked for.
    pub fn http_request(&self, route: &str, status: u16) {
        let labels = HttpRequest { route: route.to_owned(), status };
        self.http_requests.get_or_create(&labels).inc();
    }

    /// All metrics as OpenMetrics text ([`METRICS_CONTENT_TYPE`]).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a String takes any text");
        out
    }
}

#[cfg(test)]
mod tests;
