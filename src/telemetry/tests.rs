//! The log's two formats, and the metrics as a scraper reads them.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;

use super::*;
use crate::protocol::error::CloseCode;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(log: &Log) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let dispatch = dispatch(log, false, move || writer.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info!(project = "p1", "committed");
        tracing::debug!("unheard");
    });
    let bytes = captured.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_log_is_one_line_an_event_in_either_format() {
    let pretty = logged(&Log { filter: "info".into(), format: LogFormat::Pretty });
    assert!(pretty.contains("committed") && pretty.contains("p1"), "{pretty}");
    assert_eq!(pretty.lines().count(), 1, "{pretty}");

    let json = logged(&Log { filter: "info".into(), format: LogFormat::Json });
    let line: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&line["message"], &line["project"]), (&"committed".into(), &"p1".into()));
}

#[test]
fn a_wrong_filter_is_an_error() {
    let log = Log { filter: "syncline=loud".into(), format: LogFormat::Pretty };
    assert!(matches!(dispatch(&log, false, std::io::stderr), Err(TelemetryError::Filter(_))));
}

#[test]
fn what_is_counted_is_exposed() {
    let metrics = Metrics::new();
    metrics.connections.set(3);
    metrics.connections_closed.of(CloseCode::SlowConsumer.into()).inc();
    metrics.deliveries.of(Delivery::Change).inc_by(5);
    metrics.ingest_events.of((IngestWay::Http, IngestOutcome::Duplicate)).inc();
    metrics.write_seconds.observe(0.002);
    metrics.http_request("/v1/projects/{p}/ops", 200);
    let text = metrics.encode();
    for line in [
        "syncline_connections 3",
        "syncline_connections_closed_total{reason=\"slow_consumer\"} 1",
        "syncline_connections_closed_total{reason=\"client\"} 0",
        "syncline_deliveries_total{kind=\"change\"} 5",
        "syncline_ingest_events_total{way=\"http\",outcome=\"duplicate\"} 1",
        "syncline_ingest_events_total{way=\"stream\",outcome=\"duplicate\"} 0",
        "syncline_write_seconds_count 1",
        "syncline_http_requests_total{route=\"/v1/projects/{p}/ops\",status=\"200\"} 1",
        concat!("syncline_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "# HELP syncline_connections Open WebSocket connections.",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let text = Metrics::new().encode();
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}"))[name.len()..]
            .trim()
            .parse()
            .unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    assert!(value("process_open_fds") >= 3.0);
    assert_eq!(resident_memory().unwrap() % 1024, 0);
}

#[test]
fn every_label_value_has_its_own_counter() {
    fn check<L: Label>() {
        let all = L::all();
        assert!(all.iter().enumerate().all(|(place, label)| label.index() == place));
        let texts: BTreeSet<_> = all.iter().map(|label| label.pairs()).collect();
        assert_eq!(texts.len(), all.len());
    }
    check::<Closed>();
    check::<Delivery>();
    check::<AuthFailure>();
    check::<(IngestWay, IngestOutcome)>();
    for code in [CloseCode::NoPong, CloseCode::FrameTooLarge, CloseCode::TokenRevoked] {
        assert_eq!(Closed::from(code).as_str(), code.reason());
    }
}
