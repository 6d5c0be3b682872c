//! From an armed intent to a person: an acknowledgement disarms it, its due time makes it a push.
//!
//! [`Acks`] gathers what clients have stored and tells the store, which cancels what those
//! acknowledgements answer; [`Live`] tells it who has a connection. [`dispatcher`] takes what comes due,
//! [`decide`] says what becomes of it, [`sender`] brings it to a [`provider`] in the `words` of that moment, [`receipts`] asks what became
//! of it, `census` counts what waits. Intents are armed in the transaction of the change; nothing here is called by the engine.
//! `docs/PUSH.md` tells the story.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::auth::Access;
use crate::config;
use crate::hub::Hub;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::templates::Templates;

mod acks;
mod census;
pub mod decide;
pub mod devices;
pub mod dispatcher;
pub mod expo;
mod live;
mod log;
pub mod provider;
pub mod receipts;
mod round;
pub mod sender;
pub mod sign;
pub mod stand_in;
pub mod summary;
mod wake;
mod words;

pub use acks::Acks;
pub use live::Live;
use provider::Providers;

/// The configured providers; the `log` provider if there is none.
///
/// # Errors
/// One cannot be made.
pub fn providers(config: &config::Push) -> anyhow::Result<Providers> {
    let provider: Arc<dyn provider::PushProvider> = if config.expo.enabled {
        Arc::new(expo::Expo::new(&config.expo)?)
    } else {
        Arc::new(log::Log)
    };
    Ok(Arc::new([provider]))
}

/// What decisions are made with: the configuration, the words, the key in the store, and who may read what.
///
/// # Errors
/// The store does not answer.
pub async fn policy(
    store: &Store,
    config: &config::Push,
    templates: Arc<Templates>,
    providers: Providers,
    access: Arc<Access>,
) -> anyhow::Result<decide::Policy> {
    let fresh = hex::encode(rand::random::<[u8; 32]>());
    let signer = sign::Signer::new(store.push_secret(&fresh).await?);
    for provider in providers.iter() {
        store.begin_gate(provider.name()).await?;
    }
    Ok(decide::Policy { config: config.clone(), templates, signer, providers, access })
}

/// Spawns everything that makes pushes of what is due.
pub fn spawn(hub: &Hub, shutdown: &Shutdown) {
    let stop = shutdown.stopping();
    let wake = wake::Wake::default();
    let policy = hub.push.clone();
    let dispatcher = dispatcher::Dispatcher {
        store: hub.store.clone(),
        policy: policy.clone(),
        relay: hub.relay.clone(),
        metrics: hub.metrics.clone(),
        wake: wake.clone(),
    };
    shutdown.spawn("push dispatcher", dispatcher.run(stop.clone()));
    let census = census::Census {
        store: hub.store.clone(),
        poll: policy.config.poll,
        metrics: hub.metrics.clone(),
    };
    shutdown.spawn("push census", census.run(stop.clone()));
    for provider in policy.providers.iter() {
        let manners = provider.manners();
        let sender = |in_flight: u32| sender::Sender {
            store: hub.store.clone(),
            provider: provider.clone(),
            manners: manners.clone(),
            policy: policy.clone(),
            instance: hub.instance,
            metrics: hub.metrics.clone(),
            wake: wake.clone(),
            in_flight: Arc::new(Semaphore::new(in_flight.max(1) as usize)),
        };
        // With one request at a time there is nothing to share; critical ones are first in the queue then.
        let critical = (manners.in_flight / 3).max(u32::from(manners.in_flight > 1));
        let name = provider.name();
        if critical > 0 {
            let sender = sender(critical).run(true, stop.clone());
            shutdown.spawn(format!("push {name} critical"), sender);
        }
        let sender = sender(manners.in_flight - critical).run(false, stop.clone());
        shutdown.spawn(format!("push {name}"), sender);
        let receipts = receipts::Receipts {
            store: hub.store.clone(),
            provider: provider.clone(),
            manners,
            config: policy.config.clone(),
            metrics: hub.metrics.clone(),
        };
        shutdown.spawn(format!("push {name} receipts"), receipts.run(stop.clone()));
    }
}
