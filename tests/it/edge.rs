//! nginx in front, with the files that are shipped: which instance a client comes to, and what one instance's
//! trouble does to the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use reqwest::StatusCode;
use serde_json::{Value, json};
use syncline::config::Config;

use crate::support::client::{Client, create};
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::nginx::Nginx;
use crate::support::process::free_port;
use crate::support::raw::Raw;

/// Three hubs behind nginx. They share nothing: only where a client comes out matters here.
struct Site {
    hubs: [Option<TestHub>; 3],
    addresses: [SocketAddr; 3],
    nginx: Nginx,
}

impl Site {
    async fn start(change: impl Fn(&mut Config)) -> Self {
        let addresses = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut hubs = [const { None }; 3];
        for (hub, address) in hubs.iter_mut().zip(addresses) {
            let at = |config: &mut Config| config.server.listen = address;
            *hub = Some(
                TestHub::start_with(|config| {
                    at(config);
                    change(config);
                })
                .await,
            );
        }
        Self { hubs, addresses, nginx: Nginx::start(&addresses).await }
    }

    fn running(&self) -> impl Iterator<Item = (usize, &TestHub)> {
        self.hubs.iter().enumerate().filter_map(|(n, hub)| Some((n, hub.as_ref()?)))
    }

    async fn stop(&mut self, n: usize) {
        self.hubs[n].take().unwrap().stop().await;
    }

    async fn restart(&mut self, n: usize) {
        let address = self.addresses[n];
        let hub = TestHub::start_with(|config| config.server.listen = address).await;
        self.hubs[n] = Some(hub);
    }

    /// One number of every hub that runs.
    fn counted(&self, metric: &str) -> BTreeMap<usize, f64> {
        self.running().map(|(n, hub)| (n, hub.metric(metric))).collect()
    }

    /// Connects, and tells to which hub that led.
    async fn place(&self, client: &str, user: &str) -> usize {
        let before = self.counted("syncline_connections_opened_total");
        let token = token(user, &json!({ "p": "editor" }));
        Client::connect(&self.nginx.ws(client), &token).await.close().await;
        let after = self.counted("syncline_connections_opened_total");
        let grown: Vec<_> = after.keys().filter(|n| after[n] > before[n]).copied().collect();
        assert_eq!(grown.len(), 1, "one connection, one hub: {before:?} {after:?}");
        grown[0]
    }

    async fn places(&self, clients: &[String]) -> Vec<usize> {
        let mut places = Vec::new();
        for client in clients {
            places.push(self.place(client, "ana").await);
        }
        places
    }
}

fn installations() -> Vec<String> {
    (0..30).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect()
}

#[tokio::test]
async fn an_installation_stays_with_its_instance_and_comes_back_to_it() {
    let mut site = Site::start(|_| {}).await;
    let clients = installations();
    let places = site.places(&clients).await;
    for n in 0..3 {
        assert!(places.contains(&n), "instance {n} has nobody: {places:?}");
    }
    assert_eq!(site.places(&clients).await, places, "the same again");
    let other = site.place(&clients[0], "another user, with another token").await;
    assert_eq!(other, places[0], "it is the installation that counts");

    let away = places[0];
    site.stop(away).await;
    only_its_own_clients_move(away, &places, &site.places(&clients).await);

    site.restart(away).await;
    // nginx leaves an instance out for `fail_timeout`.
    eventually("its clients are back", || async { site.place(&clients[0], "ana").await == away })
        .await;
    assert_eq!(site.places(&clients).await, places);

    // Where it is taken out of the list.
    let left: Vec<_> = (0..3).filter(|n| *n != away).map(|n| site.addresses[n]).collect();
    site.nginx = Nginx::start(&left).await;
    only_its_own_clients_move(away, &places, &site.places(&clients).await);
}

fn only_its_own_clients_move(away: usize, before: &[usize], after: &[usize]) {
    let places = before.iter().zip(after);
    let (own, others): (Vec<_>, Vec<_>) = places.partition(|(before, _)| **before == away);
    assert!(others.iter().all(|(before, after)| before == after), "others moved: {others:?}");
    for n in (0..3).filter(|n| *n != away) {
        assert!(own.iter().any(|(_, after)| **after == n), "all moved to one instance: {own:?}");
    }
}

#[tokio::test]
async fn what_names_no_installation_goes_by_address_and_agent() {
    let site = Site::start(|_| {}).await;
    let http = reqwest::Client::new();
    let mut places = Vec::new();
    for agent in 0..20 {
        let mut led = [0; 2];
        for (led, query) in led.iter_mut().zip(["", "?client=%2e%2e/no-name"]) {
            let before = site.counted(UNAUTHORIZED);
            let asked = http.get(site.nginx.http(&format!("/v1/sync/status{query}")));
            let asked = asked.header("user-agent", format!("app {agent}"));
            assert_eq!(asked.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
            let after = site.counted(UNAUTHORIZED);
            *led = after.keys().copied().find(|n| after[n] > before[n]).unwrap();
        }
        assert_eq!(led[0], led[1], "the same client");
        places.push(led[0]);
    }
    places.sort_unstable();
    places.dedup();
    assert_eq!(places, [0, 1, 2], "a carrier's crowd is spread");
}

const UNAUTHORIZED: &str = "syncline_auth_failures_total{reason=\"missing\"}";

#[tokio::test]
async fn an_endpoint_that_is_overloaded_does_not_take_its_instance_out() {
    let site = Site::start(|config| config.store.queue_ops = 1).await;
    let client = &installations()[0];
    let home = site.place(client, "ana").await;
    let bearer = token("ana", &json!({ "p": "editor" }));
    let ops: Vec<Value> = ["a", "b"].iter().map(|id| create(id, id, &json!({}))).collect();
    let path = format!("/v1/projects/p/ops?client={client}");
    for _ in 0..3 {
        let asked = reqwest::Client::new().post(site.nginx.http(&path)).bearer_auth(&bearer);
        let refused = asked.body(json!({ "ops": ops }).to_string()).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["code"], "overloaded", "the hub's own answer");
        assert_eq!(site.place(client, "ana").await, home, "its sockets are served as before");
    }
    let dropped = site.counted("syncline_drops_total{reason=\"write_queue\"}");
    assert_eq!(dropped[&home], 3.0, "each was asked for once, there: {dropped:?}");
    assert_eq!(dropped.values().sum::<f64>(), 3.0, "and nowhere else: {dropped:?}");
}

#[tokio::test]
async fn a_handshake_that_an_instance_has_no_room_for_is_made_with_another() {
    let site = Site::start(|config| {
        (config.limits.http_connections, config.limits.http_connections_per_ip) = (1, 1);
    })
    .await;
    let client = &installations()[0];
    let home = site.place(client, "ana").await;
    let (_, hub) = site.running().nth(home).unwrap();
    let silent = Raw::open(&hub.ws()).await;
    eventually("it takes the only place", || async {
        hub.metric("syncline_http_connections") == 1.0
    })
    .await;
    assert_ne!(site.place(client, "ana").await, home);
    let turned_away = hub.metric("syncline_rate_limited_total{what=\"http_connections\"}");
    assert_eq!(turned_away, 1.0, "it was asked first");
    drop(silent);
    eventually("it is back", || async { site.place(client, "ana").await == home }).await;
}
