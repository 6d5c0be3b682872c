//! `syncline push …`: tries pushes out, shows what waits and what became of the rest. Works on the store
//! the configuration names, beside the instances that run.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;

use crate::config::Config;
use crate::protocol::op::Fields;
use crate::push::providers;
use crate::push::summary::Summary;
use crate::store::Store;
use crate::store::push::Device;
use crate::templates::Templates;

mod test;

use test::Test;

#[derive(Debug, Subcommand)]
pub(crate) enum Push {
    /// Send a test push: to a user through the queue, to a device or a token at once
    #[command(after_help = "\
Examples:
  syncline push test --user ana --project demo
  syncline push test --device 7 --wait-receipt
  syncline push test --token 'ExponentPushToken[…]' --dry-run")]
    Test(Test),
    /// What became of pushes, per project, lane and provider
    Stats {
        /// How far to look back
        #[arg(long, default_value = "24h", value_parser = super::duration)]
        within: Duration,
        /// One project only
        #[arg(long, default_value = "")]
        project: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What waits, by stage, lane and state, with the age of the oldest
    Queue {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Close the breakers and try everything that waits for another attempt now; with an id, one that failed
    Retry {
        /// A delivery that failed and is still of use
        #[arg(long)]
        id: Option<i64>,
    },
    /// Registered devices; the tokens themselves are not shown
    Tokens {
        /// Of one user
        #[arg(long, default_value = "")]
        user: String,
        /// `active`, `suspect` or `disabled`
        #[arg(long, default_value = "")]
        state: String,
        /// How many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Render a template
    #[command(after_help = "\
Example:
  syncline push preview --template alert --locale de --vars '{\"title\":\"Leak\",\"risk\":\"high\"}'")]
    Preview {
        /// The template
        #[arg(long)]
        template: String,
        /// The language
        #[arg(long)]
        locale: Option<String>,
        /// The variables, a JSON object
        #[arg(long, default_value = "{}")]
        vars: String,
        /// For how many notifications it stands
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
}

/// Does what the command asks.
pub(crate) async fn push(
    config: &Config,
    command: Push,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    if let Push::Preview { template, locale, vars, count } = command {
        return preview(config, (&template, locale.as_deref()), (&vars, count), out);
    }
    let store = Store::open(&config.store).await.context("store.url")?;
    match command {
        Push::Test(test) => return test::test(&store, config, test, out).await,
        Push::Stats { within, project, json } => {
            let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
            let summaries = Summary::of(&store.push_stats(within, &project).await?);
            if json {
                writeln!(out, "{}", serde_json::to_string_pretty(&summaries)?)?;
            } else {
                stats(&summaries, out)?;
            }
        }
        Push::Queue { json } => queue(&store, json, out).await?,
        Push::Retry { id: Some(id) } => {
            store.retry_failed(id).await?.with_context(|| format!("delivery {id}"))?;
            writeln!(out, "delivery {id} is tried again")?;
        }
        Push::Retry { id: None } => {
            for provider in providers(&config.push)?.iter() {
                let due = store.reopen_gate(provider.name()).await?;
                writeln!(out, "{}: breakers closed, {due} deliveries made due", provider.name())?;
            }
        }
        Push::Tokens { user, state, limit } => {
            for device in store.search_devices(&user, &state, limit).await? {
                writeln!(out, "{}", device_line(&device))?;
            }
        }
        Push::Preview { .. } => {}
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

fn preview(
    config: &Config,
    (template, locale): (&str, Option<&str>),
    (vars, count): (&str, usize),
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let templates = Templates::load(&config.push.templates, &config.push.locales);
    let templates = templates.map_err(|problems| anyhow::anyhow!(problems.join("\n")))?;
    let vars: Fields = serde_json::from_str(vars).context("--vars must be a JSON object")?;
    let text = templates.render(template, locale, &vars, count)?;
    writeln!(out, "{}\n{}", text.title, text.body)?;
    Ok(ExitCode::SUCCESS)
}

fn device_line(device: &Device) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    format!(
        "{}  user={}  client={}  {} {}  locale={}  tz={}  app={}  model={}  {}{}",
        device.id,
        device.user_id,
        device.client,
        device.provider,
        device.platform,
        text(&device.locale),
        text(&device.tz),
        text(&device.app_version),
        text(&device.model),
        device.state,
        device.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})")),
    )
}

fn stats(summaries: &[Summary], out: &mut impl Write) -> std::io::Result<()> {
    for s in summaries {
        let success =
            s.success.map_or_else(|| "-".into(), |share| format!("{:.1} %", share * 100.0));
        let provider = if s.provider.is_empty() { "(not sent)" } else { &s.provider };
        writeln!(
            out,
            "{} {} {provider}: sent {}, handed {}, delivered {}, opened {}, missing {}, \
            expired {}, success {success}",
            s.project, s.lane, s.sent, s.handed, s.delivered, s.opened, s.missing, s.expired
        )?;
        let reasons =
            [("failed", &s.failed), ("canceled", &s.canceled), ("suppressed", &s.suppressed)];
        for (what, reasons) in reasons {
            for (reason, count) in reasons {
                writeln!(out, "  {what}: {reason} {count}")?;
            }
        }
        if let Some(latency) = &s.latency_ms {
            let ms = |bound: Option<i64>| {
                bound.map_or_else(|| "> 60 s".into(), |ms| format!("≤ {ms} ms"))
            };
            writeln!(
                out,
                "  event to acceptance: p50 {}, p95 {}, p99 {}",
                ms(latency.p50),
                ms(latency.p95),
                ms(latency.p99)
            )?;
        }
    }
    if summaries.is_empty() {
        writeln!(out, "nothing happened")?;
    }
    Ok(())
}

async fn queue(store: &Store, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let lines = store.push_queue().await?;
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?;
        return Ok(());
    }
    for line in &lines {
        let oldest = line.oldest / 1000;
        let whose = [&line.stage, &line.lane, &line.provider, &line.state].map(String::as_str);
        let whose: Vec<_> = whose.into_iter().filter(|word| !word.is_empty()).collect();
        writeln!(out, "{}: {}, oldest {oldest} s", whose.join(" "), line.count)?;
    }
    if lines.is_empty() {
        writeln!(out, "nothing waits")?;
    }
    for (name, gate, now) in store.gates().await? {
        if let Some(until) = gate.reopens(now) {
            let why = if gate.credentials {
                "the credentials are not accepted"
            } else {
                "it fails or asks to wait"
            };
            writeln!(out, "{name}: held for {} s, because {why}", (until - now) / 1000)?;
        }
        if gate.suspicious_until > now {
            let left = (gate.suspicious_until - now) / 1000;
            let why = "too many are dead at once";
            writeln!(out, "{name}: for {left} s no token is disabled, because {why}")?;
        }
    }
    Ok(())
}
