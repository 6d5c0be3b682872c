//! The command line: reads it, loads the configuration and hands over.
//!
//! `main` calls [`run`]. What a command does is in `app`, or in one file here for each that is small and
//! runs without a hub.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Loaded};
use crate::id::Room;
use crate::{app, telemetry};

mod api;
mod dev;
mod epoch;
mod greeting;
mod health;
mod push;
mod report;
mod sync;
mod tail;
mod token;

/// Where the configuration is looked for if none is named.
const CONFIG_FILES: [&str; 2] = ["syncline.toml", "/etc/syncline/syncline.toml"];

/// A self-hosted realtime sync hub.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  syncline serve --dev                                   try it: no configuration, no services
  syncline token --dev --user ana --project demo=editor  a token for it
  syncline check-config --print                          what is in force, without secrets
  syncline --config hub.toml --set log.format=json serve

Every key can also be set in the environment: SYNCLINE_SERVER__LISTEN=0.0.0.0:8080"
)]
pub struct Cli {
    /// Configuration file [default: $SYNCLINE_CONFIG, ./syncline.toml or /etc/syncline/syncline.toml]
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(help_heading = "Configuration", display_order = 1000)]
    config: Option<PathBuf>,
    /// Set one key, e.g. `--set limits.rooms=50`; wins over file and environment
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = key_value)]
    #[arg(help_heading = "Configuration", display_order = 1001)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub
    #[command(after_help = "\
Examples:
  syncline serve --dev
  syncline serve --listen 0.0.0.0:8080

SIGTERM and SIGINT send the clients away and end the hub (`server.drain_deadline`).")]
    Serve(Serve),
    /// Bring the store's schema up to date and exit
    Migrate,
    /// Say everything that is wrong with the configuration; exit code 2 if something is
    CheckConfig {
        /// Print the configuration in force; secrets are shown as `***`
        #[arg(long)]
        print: bool,
    },
    /// Print a token (JWT) signed with a configured HMAC key, to try things out
    #[command(after_help = "\
Examples:
  syncline token --dev --user ana --project demo=editor
  syncline token --user ana --project p1=editor --project p2 --ttl 10m --kid 2024")]
    Token(Token),
    /// Follow rooms and print each frame as a line
    #[command(after_help = "\
Examples:
  export SYNCLINE_TOKEN=$(syncline token --dev --user ana --project demo)
  syncline tail --room project:demo
  syncline tail --url wss://hub.example.org --room project:demo --since 0 | jq")]
    Tail(Tail),
    /// See what of a running hub's writes failed, try it again, look at its log of requests
    #[command(subcommand, arg_required_else_help = true)]
    Sync(sync::Sync),
    /// Purge what is past its time (`[retention]`)
    #[command(subcommand)]
    Retention(Retention),
    /// Tell clients that the store was restored from a backup
    #[command(subcommand)]
    Epoch(epoch::Epoch),
    /// Ask a running hub whether it is ready; exit code 1 if not
    #[command(after_help = "\
Example:
  HEALTHCHECK CMD [\"syncline\", \"health\"]")]
    Health {
        /// Address of the admin listener [default: `server.admin_listen` of the configuration]
        #[arg(long)]
        url: Option<String>,
    },
    /// Try pushes out, see what waits and what became of the rest
    #[command(subcommand)]
    Push(push::Push),
    /// Help in developing against the hub
    #[command(subcommand)]
    Dev(dev::Dev),
}

#[derive(Debug, Subcommand)]
enum Retention {
    /// Purge now what running hubs purge every `retention.interval`; exit code 1 if one is at it
    #[command(after_help = "\
Examples:
  syncline retention run --dry-run
  syncline --set retention.log=7d retention run")]
    Run {
        /// Count, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    dev: Dev,
    /// Address for clients and backends, same as `--set server.listen=ADDR`
    #[arg(long, value_name = "ADDR")]
    listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, Args)]
struct Dev {
    /// Development: if the configuration has no key, use a random one kept in the data directory
    #[arg(long)]
    dev: bool,
    /// Data directory: SQLite's file, and what `--dev` keeps [default: data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    dev: Dev,
    /// The user
    #[arg(long)]
    user: crate::id::UserId,
    /// A project and the role in it; without a role, `auth.default_role`. May be repeated
    #[arg(long = "project", value_name = "PROJECT[=ROLE]", value_parser = token::grant)]
    projects: Vec<token::Grant>,
    /// How long it is good for
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// The device it is for
    #[arg(long)]
    device: Option<String>,
    /// The key to sign with [default: the first of `auth.hmac`]
    #[arg(long)]
    kid: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// The hub
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// The token; better in the environment, where others do not see it
    #[arg(long, env = "SYNCLINE_TOKEN", hide_env_values = true)]
    token: String,
    /// A room, e.g. `project:demo`. May be repeated
    #[arg(long = "room", value_name = "ROOM", required = true)]
    rooms: Vec<Room>,
    /// Begin after this position; 0 is the beginning [default: now]
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().into(), value.into())),
        _ => Err("write SECTION.KEY=VALUE, for example server.listen=0.0.0.0:8080".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text)
        .map_err(|_| "write a duration such as `90s`, `10m` or `1h`".into())
}

/// Does what the command line asks.
///
/// # Errors
/// [`config::ConfigErrors`] if the configuration is wrong; else whatever stopped the command.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { config, set, command } = cli;
    let source = Source { file: config_file(config), set };
    match command {
        Command::Serve(Serve { dev, listen }) => {
            let listen = listen.map(|listen| ("server.listen".to_owned(), listen.to_string()));
            serve(source.with(listen), &dev).await?;
        }
        Command::Migrate => {
            let config = source.read().checked_for(|key| key.starts_with("store."))?;
            telemetry::init_logging(&config.log)?;
            app::migrate(config).await?;
        }
        Command::CheckConfig { print } => check_config(&source, print)?,
        Command::Token(token) => {
            let loaded = source.with(token.dev.store_url()).read();
            let (loaded, _) = token.dev.apply(loaded)?;
            let config =
                loaded.checked_for(|key| key.starts_with("auth") || key.starts_with("roles"))?;
            println!("{}", token::token(&config, &token)?);
        }
        Command::Retention(Retention::Run { dry_run }) => {
            let of = |key: &str| key.starts_with("store.") || key.starts_with("retention.");
            let config = source.read().checked_for(of)?;
            telemetry::init_logging(&config.log)?;
            return retention(config, dry_run).await;
        }
        Command::Epoch(command) => {
            let config = source.read().checked_for(|key| key.starts_with("store."))?;
            telemetry::init_logging(&config.log)?;
            return epoch::epoch(config, command, &mut std::io::stdout()).await;
        }
        Command::Tail(tail) => return tail::tail(&tail, &mut std::io::stdout()).await,
        Command::Sync(asked) => {
            return sync::sync(source, asked, &mut std::io::stdout()).await;
        }
        Command::Health { url } => {
            let url = match url {
                Some(url) => url,
                None => {
                    let config = source.read().checked_for(|key| key == "server.admin_listen")?;
                    health::admin_url(config.server.admin_listen)
                }
            };
            return health::health(&url).await;
        }
        Command::Push(command) => {
            let needs = |key: &str| key.starts_with("store.") || key.starts_with("push.");
            let config = source.read().checked_for(needs)?;
            telemetry::init_logging(&config.log)?;
            return push::push(&config, command, &mut std::io::stdout()).await;
        }
        Command::Dev(command) => return dev::dev(command, &mut std::io::stdout()).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn retention(config: config::Config, dry_run: bool) -> anyhow::Result<ExitCode> {
    let Some(counts) = app::retention(config, dry_run).await? else {
        eprintln!("another instance is purging: nothing was done");
        return Ok(ExitCode::FAILURE);
    };
    for (what, count) in counts {
        println!("{count:>12} {}", what.as_str());
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the configuration comes from, besides the environment.
struct Source {
    file: Option<PathBuf>,
    set: Vec<(String, String)>,
}

impl Source {
    fn with(mut self, setting: impl IntoIterator<Item = (String, String)>) -> Self {
        self.set.extend(setting);
        self
    }

    fn read(&self) -> Loaded {
        // What is not Unicode is not ours.
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        config::read(self.file.as_deref(), env, &self.set)
    }
}

/// The file to read; none if none is named and none is where one may be.
fn config_file(named: Option<PathBuf>) -> Option<PathBuf> {
    let named = named.or_else(|| Some(std::env::var_os("SYNCLINE_CONFIG")?.into()));
    named
        .filter(|file: &PathBuf| !file.as_os_str().is_empty())
        .or_else(|| CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.is_file()))
}

impl Dev {
    /// The setting that `--data` stands for.
    fn store_url(&self) -> Option<(String, String)> {
        let file = self.data.as_ref()?.join("syncline.db");
        Some(("store.url".to_owned(), format!("sqlite:{}", file.display())))
    }

    fn apply(&self, mut loaded: Loaded) -> anyhow::Result<(Loaded, Option<config::DevInfo>)> {
        if !self.dev {
            return Ok((loaded, None));
        }
        let (config, info) = config::dev(loaded.config)?;
        loaded.config = config;
        Ok((loaded, Some(info)))
    }
}

async fn serve(source: Source, dev: &Dev) -> anyhow::Result<()> {
    let (loaded, info) = dev.apply(source.with(dev.store_url()).read())?;
    let config = loaded.checked()?;
    telemetry::init_logging(&config.log)?;
    for problem in config.validate() {
        tracing::warn!(key = %problem.key, help = problem.help, "{}", problem.what);
    }
    app::serve(config, |running| {
        if let Some(info) = &info {
            let program = std::env::args().next().unwrap_or_else(|| "syncline".into());
            let (hub, admin) = (&running.hub, running.admin_address);
            let text = greeting::greeting(&hub.config, info, running.address, admin, &program)?;
            eprint!("{text}");
        }
        Ok(())
    })
    .await
}

/// What somebody who tries the hub needs next. Names the files of secrets, not the secrets.
fn check_config(source: &Source, print: bool) -> anyhow::Result<()> {
    let config = source.read().checked()?;
    for warning in config.validate() {
        eprintln!("{warning}");
    }
    if print {
        print!("{}", toml::to_string(&config.redacted())?);
    } else {
        match &source.file {
            Some(file) => println!("{}: the configuration is valid", file.display()),
            None => println!("the configuration is valid; no file, defaults and environment only"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
