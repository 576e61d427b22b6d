//! Flags over variables over the file, and within the file a source over the general settings.

use std::path::Path;
use std::str::FromStr;

use super::environment::Environment;
use super::file::{File, Found, Table, Value, switch};
use super::problem::{Origin, Problem};
use super::resolve::RawArgs;
use super::table::{Setting, setting_of};

/// What can say something about a setting, and what was found wrong so far.
pub(super) struct Layers<'a> {
    pub(super) args: &'a RawArgs,
    pub(super) env: &'a Environment,
    pub(super) file: &'a File,
    pub(super) source: Option<&'a Table>,
    pub(super) problems: Vec<Problem>,
}

/// What can name a setting; the later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    General,
    Source,
    Variable,
    Flag,
}

impl Layers<'_> {
    /// The layer that decides a setting, if any names it.
    pub(super) fn layer(&self, key: &'static str) -> Option<Layer> {
        Some(match self.get(key)?.origin {
            Origin::Flag => Layer::Flag,
            Origin::Variable => Layer::Variable,
            Origin::File { .. } if self.of_source(key).is_some() => Layer::Source,
            _ => Layer::General,
        })
    }

    fn of_source(&self, key: &str) -> Option<&Found> {
        let last = key.rsplit('.').next().unwrap_or(key);
        let plural = if key == "destination" { "destinations" } else { last };
        self.source.and_then(|table| table.fields.get(last).or_else(|| table.fields.get(plural)))
    }

    pub(super) fn found(&self, setting: &'static Setting) -> Option<Found> {
        if let Some(value) = self.args.values.get(setting.key) {
            return Some(Found { value: value.clone(), origin: Origin::Flag });
        }
        if let Some(text) = self.env.get(setting.variable) {
            return Some(Found { value: Value::Text(text.to_owned()), origin: Origin::Variable });
        }
        self.of_source(setting.key).or_else(|| self.file.settings.get(setting.key)).cloned()
    }

    pub(super) fn shown(&self, setting: &'static Setting) -> (&'static Setting, Option<Value>, Origin) {
        match self.found(setting) {
            Some(Found { value, origin }) => (setting, Some(value), origin),
            None => (setting, None, Origin::Default),
        }
    }

    pub(super) fn wrong(&mut self, key: &'static str, origin: &Origin, what: impl Into<String>) {
        if let Some(setting) = setting_of(key) {
            self.problems.push(Problem::of(setting, origin, what));
        }
    }

    pub(super) fn missing(&mut self, key: &'static str, what: &str, hint: &str) {
        if let Some(setting) = setting_of(key) {
            self.problems.push(Problem::of(setting, &Origin::Default, what).with_hint(hint));
        }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Found> {
        setting_of(key).and_then(|setting| self.found(setting))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.get(key)?.value {
            Value::Text(text) => Some(text),
            // The file's reader already refused every other shape.
            _ => None,
        }
    }

    pub(super) fn parsed<T: FromStr<Err = String>>(&mut self, key: &'static str) -> Option<T> {
        let Found { value, origin } = self.get(key)?;
        let Value::Text(text) = value else { return None };
        text.parse().map_err(|what: String| self.wrong(key, &origin, what)).ok()
    }

    pub(super) fn switch(&mut self, key: &'static str, default: bool) -> bool {
        let Some(Found { value, origin }) = self.get(key) else { return default };
        match value {
            Value::Switch(on) => on,
            Value::Text(text) => switch(&text).unwrap_or_else(|| {
                self.wrong(key, &origin, format!("{text:?} is neither true nor false"));
                default
            }),
            _ => default,
        }
    }

    pub(super) fn list(&self, key: &'static str) -> Option<(Vec<String>, Origin)> {
        let Found { value, origin } = self.get(key)?;
        let list = match value {
            Value::List(list) => list,
            Value::Text(text) => text.split(':').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            _ => return None,
        };
        Some((list, origin))
    }

    /// Adds what to try to the problem found last.
    pub(super) fn hint(&mut self, hint: impl Into<String>) {
        if let Some(problem) = self.problems.pop() {
            self.problems.push(problem.with_hint(hint));
        }
    }
}

/// A relative path of a file, or anything with a scheme as it is.
pub(super) fn beside(file: &Path, text: &str) -> String {
    match file.parent() {
        Some(folder)
            if !text.contains("://") && Path::new(text).is_relative() && !folder.as_os_str().is_empty() =>
        {
            folder.join(text).to_string_lossy().into_owned()
        }
        _ => text.to_owned(),
    }
}
