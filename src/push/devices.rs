//! Devices as they register, over a socket or HTTP: checked, then stored.

use std::collections::BTreeSet;

use icu_locale_core::Locale;

use super::provider::Providers;
use super::{expo, log};
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
    check(&hub.push.providers, &device, &token)?;
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

fn check(providers: &Providers, device: &PushDevice, token: &str) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::new(ErrorCode::BadRequest, what));
    if let Err(what) = check_token(providers, &device.provider, token) {
        return refuse(&what);
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

/// Whose the token is, by its form. Expo's are kept where it is not enabled, too: a hub that only logs pushes is
/// otherwise like one that sends them.
fn check_token(providers: &Providers, provider: &str, token: &str) -> Result<(), String> {
    let form = match providers.iter().find(|known| known.name() == provider) {
        Some(provider) => provider.check(token),
        None if provider == expo::NAME => expo::check_token(token),
        None => {
            let names =
                providers.iter().map(|known| known.name()).filter(|name| *name != log::NAME);
            let names: BTreeSet<_> = names.chain([expo::NAME]).collect();
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            return Err(format!("`provider` must be {}", names.join(" or ")));
        }
    };
    form.map_err(str::to_owned)
}

fn unavailable(error: &StoreError) -> Refusal {
    if error.retryable() {
        let message = "the store does not answer; send it again";
        Refusal::new(ErrorCode::Unavailable, message).retry_after(1000)
    } else {
        Refusal::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::decide::tests::Fcm;
    use super::super::provider::PushProvider;
    use super::*;

    #[test]
    fn a_token_is_checked_by_whose_it_is() {
        let fcm: Providers = Arc::new([Arc::new(Fcm) as Arc<dyn PushProvider>]);
        let log: Providers = Arc::new([Arc::new(log::Log) as Arc<dyn PushProvider>]);
        let (expo, long) = ("ExponentPushToken[x]", "t".repeat(101));
        assert_eq!(check_token(&fcm, "fcm", &long), Ok(()));
        assert_eq!(check_token(&fcm, "fcm", expo), Err("`token` must be one of FCM".into()));
        assert_eq!(
            (check_token(&fcm, "expo", expo), check_token(&log, "expo", expo)),
            (Ok(()), Ok(()))
        );
        assert!(check_token(&log, "expo", &long).is_err());
        let names = |all| check_token(all, "apns", expo).unwrap_err();
        assert_eq!(names(&fcm), "`provider` must be `expo` or `fcm`");
        assert_eq!(names(&log), "`provider` must be `expo`");
    }
}
