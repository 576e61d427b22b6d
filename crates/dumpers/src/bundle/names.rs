//! The names of the members so far, and how many there may be.

use std::collections::HashSet;

use super::{BundleError, MEMBERS_MAX, NAME_LEN_MAX, NAMES_LEN_MAX};

/// Names of open and whole members, each once.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    len: usize,
}

impl Names {
    /// Takes the name of member `number`.
    ///
    /// # Errors
    /// `TooMany` and `NameLength` beyond the limits of the format, `Twice`.
    pub(super) fn take(&mut self, number: u32, name: &str) -> Result<(), BundleError> {
        if number > MEMBERS_MAX || self.len + name.len() > NAMES_LEN_MAX {
            return Err(BundleError::TooMany);
        }
        if name.len() > NAME_LEN_MAX {
            return Err(BundleError::NameLength { name: name.chars().take(100).collect() });
        }
        if !self.taken.insert(name.to_owned()) {
            return Err(BundleError::Twice(name.to_owned()));
        }
        self.len += name.len();
        Ok(())
    }

    /// The name of an abandoned member is free again.
    pub(super) fn free(&mut self, name: &str) {
        if self.taken.remove(name) {
            self.len -= name.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_each_and_together() {
        let mut names = Names::default();
        assert_eq!(names.take(MEMBERS_MAX, "last"), Ok(()));
        assert_eq!(names.take(MEMBERS_MAX + 1, "more"), Err(BundleError::TooMany));
        let long = "ü".repeat(NAME_LEN_MAX / 2);
        assert_eq!(names.take(2, &long), Ok(()));
        assert_eq!(names.take(3, &long), Err(BundleError::Twice(long.clone())));
        names.free(&long);
        assert_eq!(names.take(4, &long), Ok(()));
        let longer = format!("{long}x");
        assert_eq!(names.take(5, &longer), Err(BundleError::NameLength { name: "ü".repeat(100) }));

        let mut names = Names::default();
        let of = |n: usize| format!("{n:0width$}", width = NAME_LEN_MAX);
        for n in 0..NAMES_LEN_MAX / NAME_LEN_MAX {
            assert_eq!(names.take(1, &of(n)), Ok(()));
        }
        assert_eq!(names.take(1, "x"), Err(BundleError::TooMany));
        names.free(&of(0));
        assert_eq!(names.take(1, "x"), Ok(()));
    }
}
