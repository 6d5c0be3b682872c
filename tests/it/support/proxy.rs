//! A chaos proxy: real TCP links that can be cut, silenced, slowed and refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does with the bytes it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    Delay(Duration),
    BlackHole(Way),
    LoseAnswer(&'static [&'static str]),
    Refuse,
}

/// Which bytes a black hole takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    ToServer,
    ToClient,
}

impl Way {
    fn takes(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    /// How often all links were cut.
    cuts: u64,
    /// How often all links were silenced, towards the server and towards the client.
    silences: [u64; 2],
}

/// A listener in front of a server; gone when dropped.
pub(crate) struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    /// Whether the answer that was to be lost came.
    lost: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Forwards to a loopback port.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = watch::Sender::new(State { mode: Mode::Forward, cuts: 0, silences: [0; 2] });
        let lost = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, state.subscribe(), lost.clone()));
        Self { addr, state, lost, _tasks: tasks }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Delivers again. Links that were silenced stay silent: their bytes are lost.
    pub(crate) fn forward(&self) {
        self.set(Mode::Forward);
    }

    /// Delivers everything that much later.
    pub(crate) fn delay(&self, by: Duration) {
        self.set(Mode::Delay(by));
    }

    /// Takes every byte and delivers none; links stay open, and new ones open.
    pub(crate) fn black_hole(&self) {
        self.swallow(Way::Both);
    }

    /// Takes the bytes that go one way, or both, and delivers none of them.
    pub(crate) fn swallow(&self, way: Way) {
        self.set(Mode::BlackHole(way));
        self.state.send_modify(|state| {
            for (count, silenced) in state.silences.iter_mut().zip([Way::ToServer, Way::ToClient]) {
                *count += u64::from(way.takes(silenced));
            }
        });
    }

    /// Delivers again, over new links only.
    pub(crate) fn heal(&self) {
        self.forward();
        self.cut_all();
    }

    /// Closes new links at once.
    pub(crate) fn refuse(&self) {
        self.set(Mode::Refuse);
    }

    /// Delivers the first requests on one link that hold these texts, one after another, but nothing of
    /// what is said on it after the last of them.
    pub(crate) fn lose_answer_to(&self, requests: &'static [&'static str]) {
        self.lost.store(false, Ordering::SeqCst);
        self.set(Mode::LoseAnswer(requests));
    }

    /// Whether the request came, and its answer with it.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// Closes all links there are.
    pub(crate) fn cut_all(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

async fn accept(
    listener: TcpListener,
    target: u16,
    state: watch::Receiver<State>,
    lost: Arc<AtomicBool>,
) {
    let mut links = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while links.try_join_next().is_some() {}
        // As of now: a link is cut too if that happens before both of its sides are there.
        let State { mode, cuts, .. } = *state.borrow();
        if mode == Mode::Refuse {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        links.spawn(link(client, server, cuts, state.clone(), lost.clone()));
    }
}

/// Lives until one side closes or the link is cut.
async fn link(
    client: TcpStream,
    server: TcpStream,
    cuts: u64,
    mut state: watch::Receiver<State>,
    lost: Arc<AtomicBool>,
) {
    let trap = Trap { seen: AtomicUsize::new(0), lost };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (state.clone(), state.clone());
    tokio::select! {
        () = pump(from_client, to_server, Way::ToServer, up, &trap) => {}
        () = pump(from_server, to_client, Way::ToClient, down, &trap) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// What makes a link lose an answer.
struct Trap {
    /// How many of the requests went by.
    seen: AtomicUsize,
    lost: Arc<AtomicBool>,
}

impl Trap {
    /// Whether these bytes are to be lost.
    fn takes(&self, way: Way, mode: Mode, bytes: &[u8]) -> bool {
        let Mode::LoseAnswer(requests) = mode else { return false };
        let seen = self.seen.load(Ordering::SeqCst);
        match (way, requests.get(seen)) {
            (Way::ToServer, Some(next)) => {
                let holds = bytes.windows(next.len()).any(|part| part == next.as_bytes());
                self.seen.fetch_add(usize::from(holds), Ordering::SeqCst);
                false
            }
            (Way::ToClient, None) => {
                self.lost.store(true, Ordering::SeqCst);
                true
            }
            _ => false,
        }
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    state: watch::Receiver<State>,
    trap: &Trap,
) {
    let mut buffer = vec![0; 64 << 10];
    let silences = |state: &State| state.silences[usize::from(way == Way::ToClient)];
    let before = silences(&state.borrow());
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let now = *state.borrow();
        let silent = matches!(now.mode, Mode::BlackHole(which) if which.takes(way));
        if silent || silences(&now) != before || trap.takes(way, now.mode, &buffer[..count]) {
            continue;
        }
        if let Mode::Delay(by) = now.mode {
            tokio::time::sleep(by).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
