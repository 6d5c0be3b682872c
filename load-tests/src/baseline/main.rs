//! The kernel's own limit: a server that does as little as it can beside its system calls.
//!
//! It speaks just enough of the hub's protocol for every scenario of `loadgen` to run unchanged: no
//! authentication, no checks, no store. What a hub costs above it is what the hub itself does.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;

mod log;
mod server;

#[derive(Debug, Parser)]
#[command(about = "The kernel's own limit, to stand beside a hub", version)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9300")]
    listen: SocketAddr,
    /// Join what is pending for a connection into one write per loop turn.
    #[arg(long)]
    coalesce: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    load_tests::files::raise_limit();
    server::Server::new(options.listen, options.coalesce)?.run()
}
