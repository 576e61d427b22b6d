//! What is wrong with what a command was told: all of it, before anything is done.

use backup_core::{Error, ErrorKind};

use crate::failure::{Failure, Outcome};
use crate::settings::Problem;

/// Collects problems and mistakes, to be told together.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    problems: Vec<Problem>,
    /// What is more than a wrong setting, such as a file that is not there, under the setting's name.
    errors: Vec<(String, Error)>,
}

impl Checks {
    /// Begins with what is known already.
    pub(crate) fn of(problems: Vec<Problem>) -> Self {
        Self { problems, errors: Vec::new() }
    }

    /// Takes what came of a check of the setting or argument of this name; an empty name stands for one
    /// that the error names by itself.
    pub(crate) fn keep<T>(&mut self, setting: &str, outcome: Result<T, impl Into<Failure>>) -> Option<T> {
        match outcome.map_err(Into::into) {
            Ok(value) => return Some(value),
            Err(Failure::Settings(problems)) => self.problems.extend(problems),
            Err(Failure::Error(error) | Failure::Copies(error, _)) if error.kind() == ErrorKind::Config => {
                self.problems.push(problem(setting, &error));
            }
            Err(Failure::Error(error) | Failure::Copies(error, _)) => {
                self.errors.push((setting.to_owned(), error));
            }
            Err(Failure::ClosedPipe) => {}
        }
        None
    }

    /// The value, if nothing was wrong.
    ///
    /// # Errors
    /// What was wrong: one error as it is, with the setting's name; several as problems of settings.
    pub(crate) fn done<T>(mut self, value: Option<T>) -> Outcome<T> {
        if self.problems.is_empty() && self.errors.len() == 1 {
            return Err(self.errors.remove(0)).map_err(|(setting, error)| under(&setting, error).into());
        }
        self.problems.extend(self.errors.iter().map(|(setting, error)| problem(setting, error)));
        if !self.problems.is_empty() {
            self.problems.dedup();
            return Err(Failure::Settings(self.problems));
        }
        value.ok_or_else(|| Error::bug("a check failed and did not say why").into())
    }
}

fn problem(setting: &str, error: &Error) -> Problem {
    let problem = match setting {
        "" => Problem::at(error.subject(), error.what()),
        setting => Problem::at(setting, format!("{}: {}", error.subject(), error.what())),
    };
    match error.hint() {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

fn under(setting: &str, error: Error) -> Error {
    if setting.is_empty() {
        return error;
    }
    let named = Error::new(error.kind(), format!("{setting}: {}", error.subject()), error.what().to_owned());
    let named = match error.hint() {
        Some(hint) => named.with_hint(hint.to_owned()),
        None => named,
    };
    named.with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &str) -> Error {
        Error::new(ErrorKind::NotFound, name, "is not there").with_hint("look")
    }

    #[test]
    fn one_error_keeps_its_kind_and_several_are_told_together() {
        let mut checks = Checks::default();
        assert_eq!(checks.keep("flag --a", Ok::<_, Error>(1)), Some(1));
        assert_eq!(checks.keep("flag --b", Err::<(), _>(missing("x"))), None);
        let one = checks.done(Some(())).unwrap_err();
        assert_eq!((one.exit_code(), one.kind()), (10, ErrorKind::NotFound));
        assert_eq!(one.for_a_person(), "error: flag --b: x: is not there\n  try: look\n");

        let mut checks = Checks::of(vec![Problem::at("c", "bad")]);
        checks.keep("flag --b", Err::<(), _>(missing("x")));
        checks.keep("", Err::<(), _>(Error::new(ErrorKind::Config, "y", "odd")));
        let all = checks.done(Some(())).unwrap_err();
        assert_eq!(all.exit_code(), 2);
        let said = all.for_a_person();
        for part in ["setting: c: bad", "setting: y: odd", "setting: flag --b: x: is not there"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
