//! The worker's turns: what keeps Redis in step with this instance's sessions, one thing after another.
//!
//! Sessions are registered under a *holder*, a name this instance takes. When Redis may have lost
//! something or the lease lapsed, the instance takes a new name, registers everything under it, and lets
//! the old one be removed like a dead instance's: whatever the old name still held, or held wrongly, goes
//! away with it, and users who are here under the new one do not flicker.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisResult;
use tokio::time::Instant;

use super::redis::{Redis, STEPS};
use super::script::Stepped;
use crate::id::ProjectId;

pub(super) struct Worker<'a> {
    shared: &'a Redis,
    /// The name this instance's sessions are registered under.
    holder: String,
    /// Whether that name has no lease yet.
    fresh: bool,
    generation: u64,
    /// The name whose sessions are being registered anew; it keeps its lease until that is done.
    previous: Option<String>,
    /// Names of ours whose sessions are to be removed.
    retired: Vec<String>,
    /// Dead holders' projects still to be cleared.
    dead: VecDeque<(String, ProjectId)>,
    next_beat: Instant,
    /// Until then some instances may not have told Redis again what it forgot: it is not believed.
    doubted_until: Instant,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Redis) -> Self {
        Self {
            shared,
            holder: format!("{}.0", shared.instance.0.simple()),
            fresh: true,
            generation: 0,
            previous: None,
            retired: Vec::new(),
            dead: VecDeque::new(),
            next_beat: Instant::now(),
            doubted_until: Instant::now(),
        }
    }

    /// Does what is due, and tells when the next turn is.
    pub(super) async fn turn(&mut self) -> RedisResult<Instant> {
        if self.shared.resync.swap(false, Ordering::AcqRel) {
            self.rename();
        }
        if self.next_beat <= Instant::now() {
            self.beat().await?;
        }
        if self.doubted_until <= Instant::now() && self.shared.told().is_behind() {
            self.shared.heal().await?;
        }
        self.reap().await?;
        let sent = self.send().await;
        if sent.is_err() {
            // Whatever happened, find out first whether the lease still stands.
            self.next_beat = Instant::now();
        }
        sent?;
        if self.previous.is_some() && !self.shared.registry().is_restoring() {
            self.retire_previous().await?;
        }
        let due = self.shared.registry().due();
        let reap = self.dead.front().map(|_| Instant::now());
        let healed = self.shared.told().is_behind().then_some(self.doubted_until);
        Ok(due.into_iter().chain(reap).chain(healed).fold(self.next_beat, Instant::min))
    }

    /// Takes a new name, under which every session is to be registered.
    fn rename(&mut self) {
        self.generation += 1;
        let name = format!("{}.{}", self.shared.instance.0.simple(), self.generation);
        let old = std::mem::replace(&mut self.holder, name);
        match &self.previous {
            None => self.previous = Some(old),
            // It got part of the sessions at most; the older one tells what Redis still knows.
            Some(_) => self.retired.push(old),
        }
        self.fresh = true;
        self.next_beat = Instant::now();
        self.doubted_until = Instant::now() + self.shared.config.lease;
        self.shared.registry().restore(Instant::now());
    }

    /// Renews the lease, or takes a new name if it lapsed; finds the dead.
    async fn beat(&mut self) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        let lapsed = loop {
            let mut holders = vec![(self.holder.as_str(), self.fresh)];
            holders.extend(self.previous.as_deref().map(|previous| (previous, false)));
            let (alive, lapsed) = scripts.beat(&holders).await?;
            if alive.contains(&self.holder) {
                break lapsed;
            }
            tracing::warn!("the presence lease was lost; registering all sessions again");
            self.rename();
        };
        self.fresh = false;
        self.next_beat = Instant::now() + self.shared.config.heartbeat;
        let idle = self.shared.registry().retire();
        scripts.unindex(&self.holder, &idle).await?;
        if self.dead.is_empty() {
            self.find_dead(lapsed).await?;
        }
        self.shared.compare().await
    }

    async fn find_dead(&mut self, mut lapsed: Vec<String>) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        lapsed.retain(|holder| !self.retired.contains(holder));
        lapsed.extend(self.retired.iter().cloned());
        // Until everything is registered anew, the previous name is all that others see of us.
        lapsed.retain(|holder| Some(holder) != self.previous.as_ref());
        for holder in lapsed {
            let projects = scripts.indexed(&holder).await?;
            if projects.is_empty() {
                scripts.bury(&holder).await?;
                self.retired.retain(|retired| *retired != holder);
            }
            self.dead.extend(projects.into_iter().map(|project| (holder.clone(), project)));
        }
        Ok(())
    }

    /// Removes some of the dead's sessions, and takes over the timers they leave.
    async fn reap(&mut self) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        let some: Vec<_> = self.dead.iter().take(STEPS).cloned().collect();
        let calls = some.iter().map(|(holder, project)| scripts.reap(project, holder));
        let mut done = Vec::new();
        let mut failed = None;
        for ((holder, project), result) in some.iter().zip(join_all(calls).await) {
            match result {
                Ok(Stepped { next, remaining, deltas }) => {
                    self.shared.announce(deltas);
                    if remaining == 0 {
                        done.push((holder.clone(), project.clone(), next));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        for (holder, project, next) in done {
            if let Some(ms) = next {
                scripts.index(&self.holder, std::slice::from_ref(&project)).await?;
                let at = Instant::now() + Duration::from_millis(ms + 1);
                self.shared.registry().adopt(&project, at);
            }
            scripts.unindex(&holder, std::slice::from_ref(&project)).await?;
            self.dead.retain(|(h, p)| (h, p) != (&holder, &project));
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends the projects that are due.
    async fn send(&mut self) -> RedisResult<()> {
        let shared = self.shared;
        let steps = shared.registry().take(Instant::now(), STEPS);
        let new: Vec<_> = steps.iter().filter(|s| s.new).map(|s| s.project.clone()).collect();
        if let Err(error) = shared.scripts.index(&self.holder, &new).await {
            let mut registry = shared.registry();
            steps.iter().for_each(|step| registry.fail(step, Instant::now()));
            return Err(error);
        }
        let (holder, previous) = (self.holder.as_str(), self.previous.as_deref());
        let calls = steps.iter().map(|s| shared.scripts.step(&s.project, holder, previous, &s.ops));
        let mut failed = None;
        for (step, result) in steps.iter().zip(join_all(calls).await) {
            let now = Instant::now();
            match result {
                Ok(Stepped { next, deltas, .. }) => {
                    shared.announce(deltas);
                    let next = next.map(|ms| now + Duration::from_millis(ms + 1));
                    shared.registry().confirm(step, next, now);
                }
                Err(error) => {
                    shared.registry().fail(step, now);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Everything is registered under the new name: what the old one holds may go.
    async fn retire_previous(&mut self) -> RedisResult<()> {
        let Some(previous) = &self.previous else { return Ok(()) };
        let projects = self.shared.registry().projects();
        self.shared.scripts.index(previous, &projects).await?;
        self.shared.scripts.abandon(previous).await?;
        self.retired.extend(self.previous.take());
        self.next_beat = Instant::now();
        Ok(())
    }

    /// Tells Redis that the remaining sessions are lost, and leaves their timers to the others.
    pub(super) async fn hand_over(&mut self) -> RedisResult<()> {
        while self.shared.registry().is_behind() {
            self.turn().await?;
        }
        for holder in self.previous.iter().chain([&self.holder]) {
            self.shared.scripts.abandon(holder).await?;
        }
        Ok(())
    }
}
