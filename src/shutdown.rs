//! Named, tracked tasks and an end in phases.
//!
//! `app` makes one [`Shutdown`] and hands clones to whoever starts a task; nothing is spawned outside of
//! it. The end comes in three steps: *draining* (readiness fails, nothing new is accepted, clients are
//! sent away), *stopping* (ingest and workers end), and [`Shutdown::finish`], which waits for every task
//! and names those that are still there at the deadline.

use std::borrow::Cow;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A task's name, in the singular of what it serves: `ingest`, `shard 3`.
pub type TaskName = Cow<'static, str>;

/// The phases of the end, and the tasks that are to end. Clones share both.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: Arc<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    names: Mutex<Slab<TaskName>>,
    /// Told when a task ends.
    ended: Notify,
}

impl Tasks {
    fn names(&self) -> MutexGuard<'_, Slab<TaskName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the name off the list when the task ends, however it ends.
struct Tracked {
    tasks: Arc<Tasks>,
    key: usize,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.tasks.names().remove(self.key);
        self.tasks.ended.notify_waiters();
    }
}

impl Shutdown {
    /// Nothing runs, nothing ends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task under a name on the current Tokio runtime.
    pub fn spawn<N, F>(&self, name: N, future: F) -> JoinHandle<F::Output>
    where
        N: Into<TaskName> + 'static,
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(self.track(name, future))
    }

    /// `future` under a name, to be run by other means: a thread of its own, `spawn_local`. It counts as
    /// running from now on, until it ends or is dropped.
    pub fn track<N: Into<TaskName>, F: Future>(
        &self,
        name: N,
        future: F,
    ) -> impl Future<Output = F::Output> + use<N, F> {
        let key = self.tasks.names().insert(name.into());
        let tracked = Tracked { tasks: Arc::clone(&self.tasks), key };
        async move {
            let _tracked = tracked;
            future.await
        }
    }

    /// Ends when the hub drains: fail readiness, accept nothing new, send clients away.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Ends when the hub stops: finish what is at hand and return.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Begins to stop; draining has begun then too.
    pub fn stop(&self) {
        self.drain();
        self.stopping.cancel();
    }

    /// The names of the tasks that run, sorted.
    #[must_use]
    pub fn running(&self) -> Vec<TaskName> {
        let mut names: Vec<_> = self.tasks.names().iter().map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }

    /// Stops, and waits up to `deadline` for every task. Returns the names of those that did not end;
    /// they are left running.
    pub async fn finish(&self, deadline: Duration) -> Vec<TaskName> {
        self.stop();
        let all_ended = async {
            loop {
                // Listens before it looks, so that no end is missed between the two.
                let mut ended = std::pin::pin!(self.tasks.ended.notified());
                ended.as_mut().enable();
                if self.tasks.names().is_empty() {
                    return;
                }
                ended.await;
            }
        };
        match tokio::time::timeout(deadline, all_ended).await {
            Ok(()) => Vec::new(),
            Err(_) => self.running(),
        }
    }
}

/// Waits for SIGTERM or SIGINT and names the one that came.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_come_in_order() {
        let shutdown = Shutdown::new();
        let seen = shutdown.clone();
        assert!(!seen.draining().is_cancelled());
        shutdown.drain();
        assert!(seen.draining().is_cancelled() && !seen.stopping().is_cancelled());
        shutdown.stop();
        assert!(seen.stopping().is_cancelled());

        let at_once = Shutdown::new();
        at_once.stop();
        assert!(at_once.draining().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_tasks_and_no_longer() {
        let shutdown = Shutdown::new();
        for seconds in [1, 3, 2] {
            let stopping = shutdown.stopping().clone();
            shutdown.spawn(format!("worker {seconds}"), async move {
                stopping.cancelled().await;
                sleep(Duration::from_secs(seconds)).await;
            });
        }
        assert_eq!(shutdown.running(), ["worker 1", "worker 2", "worker 3"]);
        let began = Instant::now();
        assert_eq!(shutdown.finish(Duration::from_secs(25)).await, [""; 0]);
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_end_are_named() {
        let shutdown = Shutdown::new();
        shutdown.spawn("deaf", std::future::pending::<()>());
        shutdown.spawn("stuck", std::future::pending::<()>());
        let good = shutdown.spawn("good", async { 7 });
        let began = Instant::now();
        assert_eq!(shutdown.finish(Duration::from_secs(25)).await, ["deaf", "stuck"]);
        assert_eq!(began.elapsed().as_secs(), 25);
        assert_eq!(good.await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_aborted_or_panics_has_ended() {
        let shutdown = Shutdown::new();
        shutdown.spawn("aborted", std::future::pending::<()>()).abort();
        shutdown.spawn("panics", async { panic!("on purpose") });
        drop(shutdown.track("never run", async {}));
        assert_eq!(shutdown.finish(Duration::from_secs(25)).await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_started_while_finishing_is_waited_for() {
        let shutdown = Shutdown::new();
        let inner = shutdown.clone();
        shutdown.spawn("parent", async move {
            inner.stopping().cancelled().await;
            inner.spawn("child", sleep(Duration::from_secs(5)));
        });
        let began = Instant::now();
        assert_eq!(shutdown.finish(Duration::from_secs(25)).await, [""; 0]);
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn sigterm_is_heard() {
        let heard = tokio::spawn(signal());
        let pid = std::process::id().to_string();
        // A handler is installed before the task first waits; poll until it is, or the signal would end
        // this very process.
        let handled = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.is_some_and(|mask| mask & (1 << 14) != 0)
        };
        let began = std::time::Instant::now();
        while !handled() {
            assert!(began.elapsed().as_secs() < 10, "SIGTERM is not handled");
            tokio::task::yield_now().await;
        }
        let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(killed.success());
        let name = tokio::time::timeout(Duration::from_secs(10), heard).await;
        assert_eq!(name.unwrap().unwrap().unwrap(), "SIGTERM");
    }
}
