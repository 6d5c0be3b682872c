//! The `syncline` program: command line, runtime, exit code. 1 is a failure, 2 a wrong configuration.

use std::process::ExitCode;

use clap::Parser;
use syncline::cli::{self, Cli};
use syncline::config::ConfigErrors;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(cli::run(cli));
    // What did not end in time was named already; it must not hold the process.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        eprintln!("{errors}");
        return ExitCode::from(2);
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
