//! Any program's standard output as a source, any program's standard input as a target.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Probe, RestorePlan, RestoreRequest,
    Restored, Restorer, Result, Selection, Settled, Stage,
};
use serde::Deserialize;

use crate::secret::{Secret, masked};
use crate::tool::{Places, ToolCommand, ToolError, Waiting, feed, stream};

/// Settings of a program. It is started directly, never through a shell, with a small environment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommandConfig {
    /// The program and its arguments. No secret belongs here: others see it in the process list.
    pub argv: Vec<String>,
    /// Variables for its environment; their values are masked in what it says.
    pub env: BTreeMap<String, Secret>,
    /// Names of variables to pass on from our own environment.
    pub pass_env: Vec<String>,
    /// What the bytes are, when a restorer should know; `raw` without it.
    pub format: Option<String>,
    /// Accept an empty output as a whole dump.
    pub allow_empty: bool,
    /// Seconds without a byte after which the program is stopped; 900 without it, 0 for no limit.
    pub stall_seconds: Option<u64>,
}

/// Stalls are limited to these seconds unless the settings say otherwise.
pub(crate) fn waiting(stall_seconds: Option<u64>) -> Waiting {
    let default = Waiting::default();
    Waiting { stall: stall_seconds.map_or(default.stall, Duration::from_secs), ..default }
}

/// Sources without tables cannot be dumped in part.
pub(crate) fn refuse_selection(subject: &str, what: &Selection) -> Result<()> {
    if what.include.is_empty() && what.exclude.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, subject, "cannot be dumped in part")
        .with_hint("leave include and exclude out for this source"))
}

impl CommandConfig {
    /// A program with its arguments and nothing else.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    fn command(&self) -> Result<ToolCommand> {
        let Some((program, args)) = self.argv.split_first().filter(|(program, _)| !program.is_empty()) else {
            return Err(Error::new(ErrorKind::Config, "argv", "names no program")
                .with_hint("give the program and its arguments as a list"));
        };
        let path = if program.contains('/') {
            PathBuf::from(program)
        } else {
            Places::new(&[]).all(program)?.swap_remove(0)
        };
        let mut command = ToolCommand::new(path).args(args);
        for name in &self.pass_env {
            command = command.pass_env(name);
        }
        for (name, value) in &self.env {
            command = command.secret_env(name, value);
        }
        Ok(command)
    }

    fn secrets(&self) -> Vec<Secret> {
        self.env.values().cloned().collect()
    }

    fn format(&self) -> DumpFormat {
        DumpFormat::new(self.format.as_deref().unwrap_or("raw"))
    }
}

/// A program whose output is the dump.
#[derive(Debug)]
pub struct CommandDumper {
    config: CommandConfig,
    waiting: Waiting,
}

impl CommandDumper {
    /// The program of these settings; it is looked for when it is needed.
    #[must_use]
    pub fn new(config: CommandConfig) -> Self {
        let waiting = waiting(config.stall_seconds);
        Self { config, waiting }
    }
}

#[async_trait]
impl Dumper for CommandDumper {
    async fn probe(&self, _cx: &Context) -> Result<Probe> {
        self.config.command().map_err(|error| error.at(Stage::Probe))?;
        Ok(Probe { engine: "command".to_owned(), ..Probe::default() })
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let command = self.config.command().map_err(|error| error.at(Stage::Dump))?;
        cx.check(command.name())?;
        refuse_selection(command.name(), what)?;
        let output = stream(cx, &command, self.waiting, self.config.allow_empty)
            .map_err(|error| Error::from(error).at(Stage::Dump))?;
        let (settler, report) = Settled::pending();
        let secrets = self.config.secrets();
        let facts = DumpReport {
            engine: "command".to_owned(),
            options: self.config.argv.iter().map(|arg| masked(arg, &secrets)).collect(),
            ..DumpReport::default()
        };
        let bytes =
            output.into_bytes(|error| Error::from(error).at(Stage::Dump), move || settler.settle(facts));
        Ok(Dump { format: self.config.format(), bytes, report })
    }
}

/// A program that reads the dump from its standard input.
#[derive(Debug)]
pub struct CommandRestorer {
    config: CommandConfig,
    waiting: Waiting,
}

impl CommandRestorer {
    /// The program of these settings.
    #[must_use]
    pub fn new(config: CommandConfig) -> Self {
        let waiting = waiting(config.stall_seconds);
        Self { config, waiting }
    }
}

#[async_trait]
impl Restorer for CommandRestorer {
    /// Any format, or the one the settings name.
    fn accepts(&self, format: &DumpFormat) -> bool {
        self.config.format.as_deref().is_none_or(|own| own == format.as_str())
    }

    async fn plan(&self, _cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let command = self.config.command().map_err(|error| error.at(Stage::Restore))?;
        if !self.accepts(&request.format) {
            return Err(unaccepted(command.name(), &request.format));
        }
        let steps = vec![
            format!("start {} and write the dump to its standard input", command.program().display()),
            "close its input only after the end of the dump was verified; on any failure kill it with its \
             input still open"
                .to_owned(),
        ];
        let target = format!("input of {}", command.name());
        Ok(RestorePlan::looked_at(request, target, steps))
    }

    /// What the program does with half a dump before it is killed is its own affair: it should apply
    /// nothing before the end of its input.
    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        let command = self.config.command().map_err(|error| error.at(Stage::Restore))?;
        cx.check(command.name())?;
        let convert = |error: ToolError| Error::from(error).at(Stage::Restore);
        let fed = feed(cx, &command, self.waiting, dump.bytes, convert).await?;
        Ok(Restored {
            target: plan.target().to_owned(),
            bytes: fed.bytes,
            warnings: fed.stderr.lines().map(str::to_owned).collect(),
        })
    }
}

/// The refusal of a format.
pub(crate) fn unaccepted(target: &str, format: &DumpFormat) -> Error {
    Error::new(ErrorKind::Unsupported, target, format!("cannot take a dump of the format {format}"))
        .at(Stage::Restore)
        .with_hint("restore it to a target of its own engine, or to a file")
}
