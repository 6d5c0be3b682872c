//! The conformance suite: every test runs on a fresh SQLite and on a fresh PostgreSQL.

/// Makes each named test, an `async fn(Site)`, a test on both engines.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(crate::support::site::Site::sqlite()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(crate::support::site::Site::postgres().await).await;
            })+
        }
    };
}

mod checksum;
mod commit;
mod delta;
mod lifecycle;
mod push;
mod read;
mod retention;
mod upgrade;
