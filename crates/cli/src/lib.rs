//! The `strongroom` command: flags, settings, wiring and words. What a backup is, is decided in
//! `backup_core`; this crate chooses the implementations (in one file, `wiring`) and talks to people.

mod args;
mod carry;
mod checks;
mod commands;
mod copying;
mod database;
mod exit;
mod export;
mod failure;
mod host;
mod input;
mod keys;
mod notice;
mod output;
mod printer;
mod progress;
mod reading;
mod repository;
mod retention;
mod secrets;
mod selector;
mod settings;
mod signals;
mod source;
mod spooling;
mod spread;
mod state;
mod terminal;
mod tracing_out;
mod wiring;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use backup_core::{CancelToken, Context, Error};
use clap::Parser as _;

use args::{Cli, Command, Sets as _};
use failure::{Failure, Outcome};
use printer::Printer;
use settings::{Environment, RawArgs};

/// Longer than a program that does not listen to SIGTERM is given before SIGKILL.
const PROGRAMS_END: Duration = Duration::from_secs(15);

/// Runs one command to its end and answers its exit code; the first argument is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misread(&error, &args, &Environment::of_process()),
    };
    let mut raw = RawArgs::default();
    cli.global.set(&mut raw);
    let env = Environment::of_process();
    let printer = early_printer(&raw, &env);
    // Fails only when the program that embeds this one listens already.
    let _ = tracing::subscriber::set_global_default(tracing_out::ToPrinter(printer.clone()));
    let outcome = start(cli.command, raw, env, &printer);
    exit::code(outcome, &printer)
}

/// Help and version are answers, anything else is a mistake on the command line.
fn misread(error: &clap::Error, args: &[OsString], env: &Environment) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let wished = env.get("STRONGROOM_JSON").is_some_and(means_yes);
    let told = args.iter().rev().find_map(|arg| match arg.to_str()? {
        "--json" | "--json=true" => Some(true),
        "--json=false" => Some(false),
        _ => None,
    });
    if told.unwrap_or(wished) {
        let what = error.render().to_string();
        let what = what.trim_end().trim_start_matches("error: ");
        let failure = Failure::usage("command line", what, "strongroom --help");
        return exit::code(Err(failure), &Printer::new(true, false, false));
    }
    let _ = error.print();
    ExitCode::from(2)
}

/// Reads the text of a configuration file as the command would, and answers every problem; for
/// fuzzing and for checking files before they are shipped.
#[must_use]
pub fn configuration_problems(path: &std::path::Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    settings::File::parse(path, text, &mut problems);
    problems.iter().map(ToString::to_string).collect()
}

/// What turns a variable for a switch on.
fn means_yes(text: &str) -> bool {
    matches!(text, "true" | "1" | "yes" | "on")
}

/// Speaks until the settings are understood; obeys flags and variables, not the file.
fn early_printer(raw: &RawArgs, env: &Environment) -> Printer {
    let on = |key, variable| match (raw.values.get(key), env.get(variable)) {
        (Some(settings::Value::Text(text)), _) => text == "true",
        (None, Some(text)) => means_yes(text),
        _ => false,
    };
    Printer::new(
        on("output.json", "STRONGROOM_JSON"),
        on("output.quiet", "STRONGROOM_QUIET"),
        on("output.verbose", "STRONGROOM_VERBOSE"),
    )
}

fn start(command: Command, raw: RawArgs, env: Environment, printer: &Printer) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::bug(format!("the runtime could not be started: {e}")))?;
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.clone());
    let outcome = runtime.block_on(async {
        signals::watch(cancel, printer.clone());
        commands::run(command, commands::Surroundings { cx, raw, env, printer: printer.clone() }).await
    });
    // What was started is gone before we are, also a program that takes its time to stop.
    if !dumpers::programs_ended(PROGRAMS_END) {
        printer.warn("a program that was started could not be stopped; look for it with ps");
    }
    // A blocking thread that waits for a terminal or a pipe must not keep the process alive.
    runtime.shutdown_background();
    outcome
}
