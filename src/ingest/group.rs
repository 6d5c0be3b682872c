//! The Redis side of the stream: its consumer group, the lease of its one reader, and replies as values.
//!
//! Called by [`super::stream`] alone. Every command touches one key, so a Cluster needs nothing special;
//! no command here loses an entry that is not acknowledged.

use std::time::Duration;

use redis::{RedisResult, Script, Value, from_redis_value};

use crate::bus::{RedisLink, key};
use crate::config::Config;
use crate::id::InstanceId;

/// How long a read waits for entries. Also how long a stop may have to wait for it.
pub(super) const BLOCK: Duration = Duration::from_millis(500);

/// Takes or extends the lease: `KEYS` its key, `ARGV` the holder and milliseconds.
const HOLD: &str = "
    local holder = redis.call('GET', KEYS[1])
    if holder and holder ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1";

const RELEASE: &str = "
    if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
    return 1";

/// Removes consumers that hold no entry: with entries, their removal would lose those. One step, because
/// a consumer may read at any time. `ARGV`: the group, the least idle time in milliseconds, who asks, and
/// whether it means itself.
const DISMISS: &str = "
    for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
        local consumer = {}
        for at = 1, #flat, 2 do consumer[flat[at]] = flat[at + 1] end
        local meant = (consumer.name == ARGV[3]) == (ARGV[4] == '1')
        if meant and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[2]) then
            redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        end
    end
    return 1";

/// An entry of the stream.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: String,
    /// Names and values, as bytes: whoever may write to the stream may write anything.
    fields: Vec<Vec<u8>>,
}

impl Entry {
    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = self.fields.chunks_exact(2);
        pairs.find_map(|pair| (pair[0] == name.as_bytes()).then_some(&*pair[1]))
    }
}

/// An entry that was delivered and not acknowledged.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) id: String,
    pub(super) deliveries: u64,
}

/// An entry's id as the two numbers it is ordered by.
pub(super) fn order(id: &str) -> (u64, u64) {
    let (ms, count) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), count.parse().unwrap_or(0))
}

/// The group as this instance uses it.
pub(super) struct Group {
    link: RedisLink,
    stream: String,
    name: String,
    dead_letters: String,
    keep_dead: u64,
    me: String,
    lease: String,
    lease_for: Duration,
    hold: Script,
    release: Script,
    dismiss: Script,
}

type Fields = Option<Vec<Vec<u8>>>;
type Entries = Vec<(String, Fields)>;

impl Group {
    /// The group of the configuration, over a link that bears [`BLOCK`].
    pub(super) fn new(config: &Config, instance: InstanceId, link: RedisLink) -> Self {
        let ingest = &config.ingest;
        Self {
            link,
            stream: ingest.stream.clone(),
            name: ingest.group.clone(),
            dead_letters: ingest.dead_letters.clone(),
            keep_dead: ingest.keep_dead,
            me: instance.to_string(),
            lease: key(&config.bus.prefix, &ingest.stream, &format!("{}:reader", ingest.group)),
            lease_for: ingest.claim_after,
            hold: Script::new(HOLD),
            release: Script::new(RELEASE),
            dismiss: Script::new(DISMISS),
        }
    }

    fn command(&self, name: &str) -> redis::Cmd {
        let mut command = redis::cmd(name);
        command.arg(&self.stream);
        command
    }

    /// Makes the group, and the stream, unless they are there. It begins with the stream's first entry.
    pub(super) async fn ensure(&self) -> RedisResult<()> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.name).arg("0").arg("MKSTREAM");
        match create.query_async::<()>(&mut self.link.clone()).await {
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            other => other,
        }
    }

    /// Becomes or stays the one reader. False if another instance is.
    pub(super) async fn hold(&self) -> RedisResult<bool> {
        let ms = self.lease_for.as_millis() as u64;
        let mut call = self.hold.key(&self.lease);
        call.arg(&self.me).arg(ms).invoke_async(&mut self.link.clone()).await
    }

    /// Leaves in order: another may read at once, and no trace stays unless entries are held.
    pub(super) async fn leave(&self) -> RedisResult<()> {
        self.dismiss(Duration::ZERO, true).await?;
        self.release.key(&self.lease).arg(&self.me).invoke_async(&mut self.link.clone()).await
    }

    /// Removes others that were idle for so long and hold nothing.
    pub(super) async fn dismiss_idle(&self, idle: Duration) -> RedisResult<()> {
        self.dismiss(idle, false).await
    }

    async fn dismiss(&self, idle: Duration, me: bool) -> RedisResult<()> {
        let mut call = self.dismiss.key(&self.stream);
        call.arg(&self.name).arg(idle.as_millis() as u64).arg(&self.me).arg(u8::from(me));
        call.invoke_async(&mut self.link.clone()).await
    }

    /// New entries, in their order; none after [`BLOCK`].
    pub(super) async fn read(&self, count: usize) -> RedisResult<Vec<Entry>> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.name).arg(&self.me).arg("COUNT").arg(count);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS").arg(&self.stream).arg(">");
        let streams: Option<Vec<(String, Entries)>> =
            read.query_async(&mut self.link.clone()).await?;
        Ok(streams.into_iter().flatten().flat_map(|(_, entries)| whole(entries)).collect())
    }

    /// The first entries that were delivered so long ago and not acknowledged.
    pub(super) async fn orphans(&self, idle: Duration, count: usize) -> RedisResult<Vec<Orphan>> {
        let mut pending = self.command("XPENDING");
        pending.arg(&self.name).arg("IDLE").arg(idle.as_millis() as u64).arg("-").arg("+");
        let rows: Vec<(String, String, u64, u64)> =
            pending.arg(count).query_async(&mut self.link.clone()).await?;
        Ok(rows.into_iter().map(|(id, _, _, deliveries)| Orphan { id, deliveries }).collect())
    }

    /// Takes entries over from whoever held them. Those that are no longer in the stream are missing.
    pub(super) async fn claim(&self, orphans: &[Orphan]) -> RedisResult<Vec<Entry>> {
        let mut claim = self.command("XCLAIM");
        claim.arg(&self.name).arg(&self.me).arg(0);
        for orphan in orphans {
            claim.arg(&orphan.id);
        }
        let reply: Vec<Value> = claim.query_async(&mut self.link.clone()).await?;
        // An older server answers nil for an entry that is gone.
        let entries = reply.into_iter().filter(|entry| *entry != Value::Nil);
        Ok(whole(entries.map(from_redis_value).collect::<Result<Entries, _>>()?))
    }

    /// Acknowledges entries.
    pub(super) async fn ack(&self, ids: &[&str]) -> RedisResult<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.command("XACK").arg(&self.name).arg(ids).query_async(&mut self.link.clone()).await
    }

    /// Puts an event where people look for what went wrong.
    pub(super) async fn bury(&self, entry: &str, event: &[u8], why: &Why) -> RedisResult<()> {
        let mut add = redis::cmd("XADD");
        add.arg(&self.dead_letters).arg("MAXLEN").arg("~").arg(self.keep_dead).arg("*");
        add.arg("event").arg(event).arg("entry").arg(entry);
        add.arg("code").arg(&why.code).arg("reason").arg(&why.reason);
        add.query_async(&mut self.link.clone()).await
    }

    /// The first entry that is delivered and not acknowledged.
    async fn oldest_pending(&self) -> RedisResult<Option<String>> {
        let mut pending = self.command("XPENDING");
        let (_, oldest, _, _): (u64, Option<String>, Value, Value) =
            pending.arg(&self.name).query_async(&mut self.link.clone()).await?;
        Ok(oldest)
    }

    /// Removes entries before `id`, but none from the first unacknowledged one on.
    pub(super) async fn trim(&self, id: String) -> RedisResult<()> {
        let oldest = self.oldest_pending().await?;
        let id = oldest.filter(|oldest| order(oldest) < order(&id)).unwrap_or(id);
        let mut trim = self.command("XTRIM");
        trim.arg("MINID").arg(id).query_async(&mut self.link.clone()).await
    }

    /// Entries that are not applied yet: those to be delivered, and those delivered and not acknowledged.
    pub(super) async fn lag(&self) -> RedisResult<u64> {
        let mut info = redis::cmd("XINFO");
        let groups: Vec<redis::streams::StreamInfoGroup> = info
            .arg("GROUPS")
            .arg(&self.stream)
            .query_async::<redis::streams::StreamInfoGroupsReply>(&mut self.link.clone())
            .await?
            .groups;
        let Some(group) = groups.into_iter().find(|group| group.name == self.name) else {
            return Ok(0);
        };
        let waiting = match group.lag {
            Some(lag) => lag,
            // Redis cannot tell after a delete in the stream's midst; there are no more than all.
            None => self.command("XLEN").query_async(&mut self.link.clone()).await?,
        };
        Ok((waiting + group.pending) as u64)
    }
}

/// Why an event is a dead letter.
#[derive(Debug)]
pub(super) struct Why {
    pub(super) code: String,
    pub(super) reason: String,
}

/// Entries, without those that were deleted while they were on their way.
fn whole(entries: Entries) -> Vec<Entry> {
    let entries = entries.into_iter();
    entries.filter_map(|(id, fields)| Some(Entry { id, fields: fields? })).collect()
}
