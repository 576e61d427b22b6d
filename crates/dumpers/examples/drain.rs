//! Dumps a source and throws the bytes away: what a dump alone takes, for measurements.
//!
//! `cargo run --release -p dumpers --example drain -- postgres://user@host/database [JOBS [psql]]`
//!
//! `psql` reads rows over several connections through that program instead of from the server itself.

#![allow(clippy::print_stdout, reason = "its whole purpose")]

use std::process::ExitCode;
use std::time::Instant;

use backup_core::{Context, Selection};
use dumpers::{SourceConfig, open_source};

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (url, jobs) = (args.next().unwrap_or_default(), args.next());
    let through_psql = args.next().is_some_and(|way| way == "psql");
    match drain(&url, jobs.as_deref(), through_psql).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}

async fn drain(url: &str, jobs: Option<&str>, through_psql: bool) -> backup_core::Result<()> {
    let mut config = SourceConfig::from_url(url)?;
    if let (SourceConfig::Postgresql(postgres), Some(jobs)) = (&mut config, jobs) {
        postgres.jobs = jobs.parse().ok();
        postgres.native = Some(!through_psql);
    }
    let began = Instant::now();
    let mut dump = open_source(&config)?.dump(&Context::new(), &Selection::default()).await?;
    let mut bytes = 0;
    while let Some(chunk) = dump.bytes.next().await.transpose()? {
        bytes += chunk.len();
    }
    println!("{} {bytes} bytes in {:.2} s", dump.format, began.elapsed().as_secs_f64());
    Ok(())
}
