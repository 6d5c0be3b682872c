//! The `log` provider, for development: says what would be sent.

use std::collections::HashMap;

use futures_util::future::{BoxFuture, ready};

use super::provider::{Envelope, Fate, Manners, PushProvider, Receipt, RequestError};
use crate::store::push::GateSettings;

/// Its name.
pub(super) const NAME: &str = "log";

/// Writes every push to the log, whether or not the user has a device.
#[derive(Debug)]
pub(super) struct Log;

impl PushProvider for Log {
    fn name(&self) -> &'static str {
        NAME
    }

    fn manners(&self) -> Manners {
        Manners {
            gate: GateSettings { rate: 10_000, batch: 100, open_ms: 1000 },
            in_flight: 1,
            receipts: 1,
            receipts_after: Vec::new(),
        }
    }

    fn check(&self, _: &str) -> Result<(), &'static str> {
        Ok(())
    }

    fn send<'a>(
        &'a self,
        envelopes: &'a [Envelope],
    ) -> BoxFuture<'a, Result<Vec<Fate>, RequestError>> {
        for Envelope { message, .. } in envelopes {
            tracing::info!(
                nid = %message.nid,
                project = %message.project,
                user = message.user,
                lane = message.lane.as_str(),
                title = %message.title,
                "push (log provider): not acknowledged in time"
            );
        }
        Box::pin(ready(Ok(vec![Fate::Accepted(None); envelopes.len()])))
    }

    fn receipts<'a>(
        &'a self,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, Receipt>, RequestError>> {
        Box::pin(ready(Ok(HashMap::new())))
    }
}
