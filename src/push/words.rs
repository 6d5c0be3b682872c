//! What a push says, made when it is sent: of what is still to be told then, in the device's language, with the
//! badge of now. A pure function of what the store shows.

use super::decide::Policy;
use super::provider::Message;
use crate::auth::Told;
use crate::protocol::notify::Lane;
use crate::protocol::op::Fields;
use crate::store::push::{Claimed, Content, Member, NO_ACCESS, NO_CHANGE};
use crate::templates::{SUMMARY, Text, cut};

/// Why there is nothing to say: nobody has to be told any more.
const READ: &str = "read";
const ACKNOWLEDGED: &str = "acknowledged";
const TOO_LATE: &str = "ttl";
/// It was kept for longer than the inbox is.
const FORGOTTEN: &str = "forgotten";

impl Policy {
    /// The message with what there is to tell now. It goes by the name of the latest of that, so that nobody takes it
    /// for one they have read.
    ///
    /// # Errors
    /// Why nothing of it is to be told any more; of several, why not the latest.
    pub(super) fn say(
        &self,
        claimed: &Claimed,
        message: Message,
        content: &Content,
    ) -> Result<Message, &'static str> {
        let members = content.members.get(&claimed.nid).map_or(&[][..], Vec::as_slice);
        let known = content.known(claimed);
        let (mut left, mut why) = (Vec::with_capacity(members.len()), FORGOTTEN);
        for member in members {
            match self.to_tell(member, known) {
                Ok(told) => left.push((member, told)),
                Err(reason) => why = reason,
            }
        }
        let Some((latest, _)) = left.last() else { return Err(why) };
        let text = self.words(&left, claimed.locale.as_deref());
        let urgent =
            left.iter().map(|(member, _)| Lane::read(&member.lane)).min_by_key(|lane| lane.rank());
        let report = |device| self.signer.report(&latest.nid, device);
        Ok(Message {
            nid: latest.nid.clone(),
            seq: if latest.evt_seq == NO_CHANGE { 0 } else { latest.evt_seq },
            lane: urgent.unwrap_or(message.lane),
            category: latest.category.clone(),
            report: claimed.token_id.map_or_else(String::new, report),
            title: text.title,
            body: text.body,
            badge: self.badge(content, &claimed.user_id),
            // Once more: it may have been stored under other rules.
            link: latest.link.clone().filter(|link| self.config.may_open(link)),
            data: latest.data.as_deref().and_then(|data| serde_json::from_str(data).ok()),
            ..message
        })
    }

    /// Whether one is still to be told of.
    fn to_tell(&self, member: &Member, known: i64) -> Result<Told, &'static str> {
        if member.read_at.is_some() {
            Err(READ)
        } else if member.evt_seq <= known {
            Err(ACKNOWLEDGED)
        } else if !member.in_time {
            Err(TOO_LATE)
        } else {
            let told = self.access.told(member.standing.as_deref(), member.entity_type.as_deref());
            told.ok_or(NO_ACCESS)
        }
    }

    /// What they have not read and may, at least the one at hand.
    fn badge(&self, content: &Content, user: &str) -> i64 {
        let unread = content.unread.get(user).map_or(&[][..], Vec::as_slice);
        let told = unread.iter().filter(|unread| {
            self.access.told(unread.standing.as_deref(), unread.entity_type.as_deref()).is_some()
        });
        told.map(|unread| unread.count).sum::<i64>().clamp(1, 999)
    }

    /// The text in the device's language, for one notification or for several.
    fn words(&self, members: &[(&Member, Told)], locale: Option<&str>) -> Text {
        let count = members.len();
        let (latest, _) = members[count - 1];
        let vars: Fields = latest
            .vars
            .as_deref()
            .and_then(|vars| serde_json::from_str(vars).ok())
            .unwrap_or_default();
        let of = |count| {
            let name = latest.template.as_deref()?;
            // What cannot be filled was reported when it was armed; the text made then stands.
            self.templates.render(name, locale, &vars, count).ok()
        };
        let plain = || Text { title: latest.title.clone(), body: latest.body.clone() };
        if count == 1 {
            return of(1).unwrap_or_else(plain);
        }
        if members.iter().all(|(member, _)| member.template == latest.template)
            && latest.template.as_deref().is_some_and(|name| self.templates.has_many(name))
            && let Some(text) = of(count)
        {
            return text;
        }
        let summary = self.templates.render(SUMMARY, locale, &Fields::new(), count);
        summary.map_or_else(
            |_| plain(),
            |text| {
                let body = || cut(of(1).unwrap_or_else(plain).title, 200);
                Text {
                    body: if text.body.is_empty() { body() } else { text.body },
                    title: text.title,
                }
            },
        )
    }
}

#[cfg(test)]
mod tests;
