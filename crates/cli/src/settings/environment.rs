//! The environment as it was when the program began.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::problem::nearest;
use super::table::SETTINGS;

/// Variables that are read beside those of the settings.
const OTHERS: [&str; 3] = ["STRONGROOM_CONFIG", "STRONGROOM_PASSPHRASE", "STRONGROOM_ENCRYPTION_KEY"];

/// Variables by name. `Debug` shows names only: some values are secrets.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own.
    pub(crate) fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    /// The value of a variable; an empty one counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same with these variables and no others.
    pub(crate) fn only(&self, names: &[&str]) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        )
    }

    /// The value as a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Variables that look like settings and are none: probably misspelt.
    pub(crate) fn strangers(&self) -> Vec<String> {
        let known = || SETTINGS.iter().map(|s| s.variable).chain(OTHERS);
        self.0
            .keys()
            .filter(|name| name.starts_with("STRONGROOM_") && !name.starts_with("STRONGROOM_TEST_"))
            .filter(|name| !known().any(|k| k == name.as_str()))
            .map(|name| match nearest(name, known()) {
                Some(near) => format!("variable {name} is not read; did you mean {near}?"),
                None => format!("variable {name} is not read by this program"),
            })
            .collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown() {
        let environment = Environment::from([("STRONGROOM_PASSPHRASE", "hunter2")]);
        assert_eq!(format!("{environment:?}"), "{\"STRONGROOM_PASSPHRASE\"}");
    }

    #[test]
    fn misspelt_variables_are_noticed() {
        let environment = Environment::from([
            ("STRONGROOM_RECIPENTS", "x"),
            ("STRONGROOM_CONFIG", "x"),
            ("STRONGROOM_TEST_PG_URL", "x"),
            ("HOME", "x"),
        ]);
        assert_eq!(
            environment.strangers(),
            ["variable STRONGROOM_RECIPENTS is not read; did you mean STRONGROOM_RECIPIENTS?"]
        );
    }
}
