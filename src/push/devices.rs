//! Devices as they register, over a socket or HTTP: checked, then stored.

use icu_locale_core::Locale;

use super::expo;
use crate::auth::Permit;
use crate::hub::Hub;
use crate::id::ClientId;
use crate::localtime;
use crate::protocol::client::PushDevice;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::store::StoreError;
use crate::store::push::Registration;

/// Platforms a device may have.
const PLATFORMS: [&str; 3] = ["ios", "android", "web"];
/// Characters of what a device says of itself.
const TEXT: usize = 128;

/// Registers an installation for the permit's user, or forgets it if it has no token. Returns its number.
///
/// # Errors
/// What the device says of itself is not valid, or the store does not answer.
pub async fn register(
    hub: &Hub,
    permit: &Permit,
    client: ClientId,
    device: PushDevice,
) -> Result<Option<i64>, Refusal> {
    let user = permit.user();
    let Some(token) = device.token.clone() else {
        hub.store.remove_device(user, None, Some(&client)).await.map_err(|e| unavailable(&e))?;
        return Ok(None);
    };
    check(&device, &token)?;
    let registration = Registration {
        client,
        provider: device.provider,
        platform: device.platform,
        token,
        locale: device.locale,
        tz: device.tz,
        app_version: device.app_version,
        model: device.model,
    };
    let id = hub.store.register_device(user, &registration).await;
    id.map(Some).map_err(|error| unavailable(&error))
}

fn check(device: &PushDevice, token: &str) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::new(ErrorCode::BadRequest, what));
    if device.provider != expo::NAME {
        return refuse("`provider` must be `expo`");
    }
    if let Err(form) = expo::check_token(token) {
        return refuse(form);
    }
    if !PLATFORMS.contains(&device.platform.as_str()) {
        return refuse("`platform` must be `ios`, `android` or `web`");
    }
    if device.locale.as_deref().is_some_and(|l| l.len() > TEXT || l.parse::<Locale>().is_err()) {
        return refuse("`locale` must be a language tag such as `pt-BR`");
    }
    if device.tz.as_deref().is_some_and(|tz| tz.len() > TEXT || !localtime::is_zone(tz)) {
        return refuse("`tz` must be a time zone such as `America/Sao_Paulo`");
    }
    let long = |text: &Option<String>| text.as_deref().is_some_and(|t| t.chars().count() > TEXT);
    if long(&device.app_version) || long(&device.model) {
        return refuse("`app_version` and `model` must have at most 128 characters");
    }
    Ok(())
}

fn unavailable(error: &StoreError) -> Refusal {
    if error.retryable() {
        let message = "the store does not answer; send it again";
        Refusal::new(ErrorCode::Unavailable, message).retry_after(1000)
    } else {
        Refusal::internal(error)
    }
}
