//! The label values of the metrics: closed sets, so that every series exists from the start and none is
//! misspelt, and counting one is an addition to an atomic.
//!
//! `connection` has those of sockets and requests, `log` those of operations and what is kept of them,
//! `push` those of pushes.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// A closed set of label values.
pub trait Label: Copy {
    /// How many there are.
    const COUNT: usize;
    /// All of them, in the order of [`Label::index`].
    fn all() -> Vec<Self>;
    /// This one's place among all.
    fn index(self) -> usize;
    /// Names and values, as they are exposed.
    fn pairs(self) -> Vec<(&'static str, &'static str)>;
}

impl<A: Label, B: Label> Label for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn all() -> Vec<Self> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        [self.0.pairs(), self.1.pairs()].concat()
    }
}

/// What [`Labelled`] are registered as.
pub(super) type LabelledFamily<M> = Family<Vec<(&'static str, &'static str)>, M>;

/// One metric for each value of a label; all exist from the start.
#[derive(Debug)]
pub struct Labelled<L, M> {
    metrics: Box<[M]>,
    label: std::marker::PhantomData<fn(L)>,
}

/// One counter for each value of a label.
pub type Counters<L> = Labelled<L, Counter>;
/// One gauge for each value of a label.
pub type Gauges<L> = Labelled<L, Gauge>;

impl<L: Label, M: Clone + Default> Labelled<L, M> {
    /// The metrics, and what to register.
    pub(super) fn new() -> (Self, LabelledFamily<M>) {
        let family = LabelledFamily::default();
        let all = L::all();
        let metrics = all.iter().map(|label| family.get_or_create_owned(&label.pairs())).collect();
        (Self { metrics, label: std::marker::PhantomData }, family)
    }

    /// The metric of one value: a plain atomic.
    pub fn of(&self, label: L) -> &M {
        &self.metrics[label.index()]
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident($key:literal) { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// The value as it is exposed.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl Label for $name {
            const COUNT: usize = [$(Self::$variant,)*].len();

            fn all() -> Vec<Self> {
                vec![$(Self::$variant,)*]
            }

            fn index(self) -> usize {
                self as usize
            }

            fn pairs(self) -> Vec<(&'static str, &'static str)> {
                vec![($key, self.as_str())]
            }
        }
    };
}

mod connection;
mod log;
mod push;

pub use connection::{AuthFailure, Closed, Delivery, Dropped, RateLimit};
pub use log::{CatchUpSource, IngestOutcome, IngestWay, Purged, Rejection, Resync, WriteOutcome};
pub use push::{PushEvent, PushHold, PushLane, PushState, PushVia, PushWait};
