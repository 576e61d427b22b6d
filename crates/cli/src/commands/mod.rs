//! The commands, one file each.

pub(crate) mod backup;
pub(crate) mod cat;
pub(crate) mod config;
pub(crate) mod copies;
pub(crate) mod copy;
pub(crate) mod keygen;
pub(crate) mod list;
pub(crate) mod migrate;
pub(crate) mod open;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod quickstart;
pub(crate) mod restore;
pub(crate) mod seal;
pub(crate) mod show;
pub(crate) mod shred;
pub(crate) mod source;
pub(crate) mod storage;
pub(crate) mod sweep;
pub(crate) mod trust;
pub(crate) mod verify;

use std::sync::Arc;

use backup_core::Context;

use crate::args::{Command, Sets};
use crate::checks::Checks;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::printer::Printer;
use crate::progress::Bar;
use crate::settings::{Environment, Needs, RawArgs, Settings};
use crate::{keys, wiring};

/// What every command is given.
pub(crate) struct Surroundings {
    /// Cancelling and the time.
    pub(crate) cx: Context,
    /// The command line.
    pub(crate) raw: RawArgs,
    /// The environment.
    pub(crate) env: Environment,
    /// How to speak.
    pub(crate) printer: Printer,
}

impl Surroundings {
    /// Resolves the settings of a command from its flags and everything below them.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn settings(&mut self, flags: &[&dyn Sets], needs: Needs<'_>) -> Outcome<Settings> {
        let (settings, checks) = self.checked(flags, needs)?;
        checks.done(Some(settings))
    }

    /// The same for a command that has more to check: the settings as far as they are understood, and
    /// what is wrong with them and with the keys and destinations that the command needs.
    ///
    /// # Errors
    /// What is wrong, when the configuration file cannot be read.
    pub(crate) fn checked(&mut self, flags: &[&dyn Sets], needs: Needs<'_>) -> Outcome<(Settings, Checks)> {
        for flags in flags {
            flags.set(&mut self.raw);
        }
        let loaded = Settings::load(&self.raw, &self.env, needs).map_err(Failure::Settings);
        let (settings, problems) = loaded?;
        self.printer.adopt(settings.json, settings.quiet, settings.verbose);
        for warning in &settings.warnings {
            self.printer.warn(warning);
        }
        if let Some(file) = &settings.file {
            self.printer.detail(&format!("configuration: {}", file.display()));
        }
        let mut checks = Checks::of(problems);
        if needs.destination {
            for destination in &settings.destinations {
                checks.keep(&settings.naming(destination), wiring::check(destination, &self.env));
            }
        }
        if needs.recipients {
            keys::check_recipients(&settings, &mut checks);
        }
        if needs.identity {
            keys::check_identities(&settings, &mut checks);
        }
        Ok((settings, checks))
    }

    /// The context with a bar on the terminal, and the bar.
    pub(crate) fn watched(&self) -> (Context, Arc<Bar>) {
        self.watch(true)
    }

    /// As [`Surroundings::watched`], for a command whose output may go to the same terminal.
    pub(crate) fn watched_beside(&self, output: &Output) -> (Context, Arc<Bar>) {
        self.watch(!output.is_terminal())
    }

    fn watch(&self, drawn: bool) -> (Context, Arc<Bar>) {
        let bar = Arc::new(Bar::new(&self.printer, drawn));
        (self.cx.clone().with_progress(bar.clone()), bar)
    }
}

/// Runs one command.
pub(crate) async fn run(command: Command, around: Surroundings) -> Outcome {
    // The others end in their own order: a tool is stopped, an upload aborted, a run recorded.
    let droppable = matches!(
        command,
        Command::List(_)
            | Command::Show(_)
            | Command::Copies(_)
            | Command::Source(_)
            | Command::Verify(_)
            | Command::Cat(_)
            | Command::Open(_)
    );
    if droppable {
        let cx = around.cx.clone();
        tokio::select! {
            biased;
            () = cx.cancel().cancelled() => Err(backup_core::Error::cancelled("the command").into()),
            done = dispatch(command, around) => done,
        }
    } else {
        dispatch(command, around).await
    }
}

async fn dispatch(command: Command, around: Surroundings) -> Outcome {
    match command {
        Command::Keygen(command) => command.run(around),
        Command::Seal(command) => command.run(around).await,
        Command::Open(command) => command.run(around).await,
        Command::Backup(command) => command.run(around).await,
        Command::Copy(command) => command.run(around).await,
        Command::Migrate(command) => command.run(around).await,
        Command::Copies(command) => command.run(around).await,
        Command::List(command) => command.run(around).await,
        Command::Show(command) => command.run(around).await,
        Command::Source(command) => command.run(around).await,
        Command::Verify(command) => command.run(around).await,
        Command::Restore(command) => command.run(around).await,
        Command::Cat(command) => command.run(around).await,
        Command::Quickstart(command) => command.run(around).await,
        Command::Pin(command) => command.run(around).await,
        Command::Prune(command) => command.run(around).await,
        Command::Storage(command) => command.run(around).await,
        Command::Sweep(command) => command.run(around).await,
        Command::Shred(command) => command.run(around).await,
        Command::Trust(command) => command.run(around).await,
        Command::Config(command) => command.run(around),
    }
}
