//! Who is there, and what they may do.
//!
//! A token becomes [`Claims`] ([`Authenticator::try_verify`]); claims and the stored [`Memberships`]
//! become [`Grants`] against the configured [`Roles`] ([`Access::grants`]), and every command becomes a sealed [`Permit`] ([`authorize`]) before anything
//! below the session acts on it. Permits have no public constructor: code that skipped the question does
//! not compile. Backends and operators take the same way with an [`AdminPermit`] or [`IngestAuthority`].
//!
//! Called by the session (tokens, commands), by the HTTP endpoints and by ingest. Nothing here knows a
//! socket or a store. Time is an argument in Unix seconds; only the key refresh of [`Authenticator::run`]
//! has a timer. No token, secret or claim value reaches a log or an error text.

mod access;
mod authenticator;
mod claims;
mod disconnect;
mod jwks;
mod keys;
mod memberships;
mod mint;
mod permit;
mod policy;
mod revocation;
#[cfg(test)]
mod testing;
mod token;
mod visibility;

pub use access::{Access, Told};
pub use authenticator::Authenticator;
pub use claims::{Claims, MAX_PROJECTS, MAX_TEXT_BYTES};
pub use disconnect::{Disconnect, Disconnects};
pub use memberships::Memberships;
pub use mint::{MintError, mint};
pub use permit::{
    Act, AdminPermit, Command, InboxPermit, IngestAuthority, Permit, authorize, authorize_admin,
    authorize_inbox, ingest_authority, role_changed,
};
pub use policy::{Grants, Role, Roles};
pub use revocation::{Revocation, RevocationEntry, Revocations, concerns};
pub use token::{MAX_TOKEN_BYTES, TokenError, Verifier};
