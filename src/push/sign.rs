//! What an app reports a push back with, so that nobody forges that it was received or opened.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the signature that are used.
const BYTES: usize = 16;

/// The key all instances share.
#[derive(Clone)]
pub struct Signer(String);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

impl Signer {
    /// A signer with this key.
    #[must_use]
    pub fn new(key: String) -> Self {
        Self(key)
    }

    /// What a device reports a notification with: its number and a signature.
    #[must_use]
    pub fn report(&self, nid: &str, device: i64) -> String {
        let signature = self.mac(nid, device).map(|mac| mac.finalize().into_bytes());
        let signature = signature.map_or_else(String::new, |bytes| hex::encode(&bytes[..BYTES]));
        format!("{device}.{signature}")
    }

    /// The device that a report is of, if it was made by [`Self::report`] for this notification.
    #[must_use]
    pub fn device(&self, nid: &str, report: &str) -> Option<i64> {
        let (device, signature) = report.split_once('.')?;
        let device = device.parse().ok()?;
        let signature = hex::decode(signature).ok().filter(|bytes| bytes.len() == BYTES)?;
        self.mac(nid, device)?.verify_truncated_left(&signature).ok()?;
        Some(device)
    }

    fn mac(&self, nid: &str, device: i64) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        mac.update(format!("{nid}:{device}").as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_believed() {
        let signer = Signer::new("key".into());
        let report = signer.report("n1", 7);
        assert_eq!(signer.device("n1", &report), Some(7));
        assert_eq!(signer.device("n2", &report), None, "another notification");
        assert_eq!(signer.device("n1", &report.replacen('7', "8", 1)), None, "another device");
        assert_eq!(Signer::new("other".into()).device("n1", &report), None);
        for forged in ["", "7", "7.", "7.00", "x.00", &format!("{report}00")] {
            assert_eq!(signer.device("n1", forged), None, "{forged}");
        }
    }
}
