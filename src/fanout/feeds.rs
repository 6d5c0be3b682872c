//! All feeds of this instance: one per project that has, or lately had, a reader here.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ShardHandle;
use super::feed::Feed;
use crate::id::ProjectId;

/// All feeds of this instance: one per project that has, or lately had, a reader here.
#[derive(Debug)]
pub struct Feeds {
    map: DashMap<ProjectId, Arc<Feed>>,
    shards: Arc<[ShardHandle]>,
    recent_bytes: usize,
    /// New feeds, for the follower to open.
    created: mpsc::UnboundedSender<Arc<Feed>>,
}

impl Feeds {
    /// No feeds yet; new ones are announced on the receiver.
    #[must_use]
    pub fn new(
        shards: Arc<[ShardHandle]>,
        recent_bytes: usize,
    ) -> (Self, mpsc::UnboundedReceiver<Arc<Feed>>) {
        let (created, receiver) = mpsc::unbounded_channel();
        (Self { map: DashMap::new(), shards, recent_bytes, created }, receiver)
    }

    /// Begins sending a project's changes to a shard. The shard must be ready to receive them.
    pub fn watch(&self, project: &ProjectId, shard: usize) -> Arc<Feed> {
        // The guard is held while the watcher is entered, so that `retire` cannot remove the feed between.
        let feed = self.map.entry(project.clone()).or_insert_with(|| {
            let feed = Arc::new(Feed::new(project.clone(), &self.shards, self.recent_bytes));
            let _closing_down = self.created.send(feed.clone());
            feed
        });
        feed.watch(shard);
        feed.clone()
    }

    /// Ends sending a project's changes to a shard.
    pub fn unwatch(&self, project: &ProjectId, shard: usize) {
        if let Some(feed) = self.map.get(project.as_str()) {
            feed.unwatch(shard);
        }
    }

    /// The feed of a project, if it has or lately had readers here.
    #[must_use]
    pub fn get(&self, project: &ProjectId) -> Option<Arc<Feed>> {
        self.map.get(project.as_str()).map(|feed| feed.clone())
    }

    /// All feeds.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Feed>> {
        self.map.iter().map(|feed| feed.clone()).collect()
    }

    /// Removes the feeds that had no reader since `before`, and names their projects.
    pub fn retire(&self, before: Instant) -> Vec<ProjectId> {
        let mut retired = Vec::new();
        self.map.retain(|project, feed| {
            let idle = feed.idle_since(before);
            if idle {
                retired.push(project.clone());
            }
            !idle
        });
        retired
    }
}
