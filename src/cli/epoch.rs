//! `syncline epoch`: gives projects' sequences a new identity, after the store was restored from a backup.
//!
//! The restored log ends before what clients have seen, and will give the same positions to other changes. A
//! client that brings along a cursor of the epoch before is told to fetch everything anew.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::app;
use crate::config::Config;
use crate::id::{self, ProjectId};
use crate::store::{Store, StoreError};

/// Projects read at once.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum Epoch {
    /// Make every client of projects fetch everything anew: after the store was restored from a backup
    #[command(after_help = "\
Examples:
  syncline epoch new --all
  syncline epoch new --project site-7 --project site-8

Prints each project with its new epoch. Exit code 1 if one that is named is not there.")]
    New(Projects),
}

#[derive(Debug, Args)]
pub(crate) struct Projects {
    /// A project; may be repeated
    #[arg(long = "project", value_name = "PROJECT")]
    projects: Vec<ProjectId>,
    /// All projects
    #[arg(long, conflicts_with = "projects", required_unless_present = "projects")]
    all: bool,
}

/// Does what the command asks.
pub(super) async fn epoch(
    mut config: Config,
    Epoch::New(Projects { projects, all }): Epoch,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    config.store.migrate = false; // that is not what was asked for
    let store = app::open_store(&config).await?;
    let projects = if all { every_project(&store).await? } else { projects };
    let mut code = ExitCode::SUCCESS;
    for project in projects {
        let epoch = id::Epoch::random();
        if store.set_epoch(&project, epoch).await? {
            writeln!(out, "{epoch} {project}")?;
        } else {
            eprintln!("there is no project `{project}` in this store");
            code = ExitCode::FAILURE;
        }
    }
    store.close().await;
    Ok(code)
}

async fn every_project(store: &Store) -> Result<Vec<ProjectId>, StoreError> {
    let mut projects: Vec<ProjectId> = Vec::new();
    loop {
        let page = store.projects(projects.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(projects);
        }
        projects.extend(page);
    }
}
