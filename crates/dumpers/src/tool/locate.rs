//! Where programs are.

use std::collections::HashSet;
use std::env;
use std::path::{Path, PathBuf};

use super::error::ToolError;

/// The folders that are searched for programs, in order.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    folders: Vec<PathBuf>,
}

impl Places {
    /// The configured folders first, then `PATH`, then the folders in which PostgreSQL packages
    /// keep the programs of each version.
    pub(crate) fn new(configured: &[PathBuf]) -> Self {
        let mut folders = configured.to_vec();
        if let Some(path) = env::var_os("PATH") {
            folders.extend(env::split_paths(&path).filter(|folder| folder.is_absolute()));
        }
        folders.extend(versioned_folders());
        Self { folders }
    }

    /// Only these folders.
    #[cfg(test)]
    pub(crate) fn only(folders: &[PathBuf]) -> Self {
        Self { folders: folders.to_vec() }
    }

    /// Every distinct program of that name, in order of the folders.
    ///
    /// Debian's `/usr/bin/pg_dump` is a script that starts one of the versioned programs; those are
    /// found themselves, so the script is passed over.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub(crate) fn all(&self, name: &str) -> Result<Vec<PathBuf>, ToolError> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for folder in &self.folders {
            let candidate = folder.join(name);
            let Ok(real) = candidate.canonicalize() else { continue };
            let wrapper = real.file_name().is_some_and(|file| file == "pg_wrapper");
            if !wrapper && is_executable(&real) && seen.insert(real) {
                found.push(candidate);
            }
        }
        if found.is_empty() { Err(self.missing(name)) } else { Ok(found) }
    }

    fn missing(&self, tool: &str) -> ToolError {
        let mut seen = HashSet::new();
        let distinct = self.folders.iter().filter(|folder| seen.insert(*folder));
        let places: Vec<String> = distinct.map(|folder| folder.display().to_string()).collect();
        let places = if places.is_empty() { "no folder at all".to_owned() } else { places.join(", ") };
        ToolError::Missing { tool: tool.to_owned(), places }
    }
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// `/usr/lib/postgresql/15/bin` (Debian), `/usr/pgsql-15/bin` (Red Hat), Homebrew's and the default
/// prefix of a build from source; newest first by name.
fn versioned_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr/local/opt", "postgresql"),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut children: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join("bin"))
            .filter(|folder| folder.is_dir())
            .collect();
        children.sort();
        children.reverse();
        folders.extend(children);
    }
    folders.push(PathBuf::from("/usr/local/pgsql/bin"));
    folders
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn programs_are_found_once_and_only_where_they_can_run() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        fs::create_dir_all(&a).unwrap();
        fs::create_dir_all(&b).unwrap();
        for (file, mode) in [("one", 0o755), ("two", 0o755), ("text", 0o644), ("pg_wrapper", 0o755)] {
            fs::write(a.join(file), "#!/bin/sh\n").unwrap();
            fs::set_permissions(a.join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink(a.join("one"), b.join("one")).unwrap();
        symlink(a.join("pg_wrapper"), b.join("pg_dump")).unwrap();
        let places = Places::only(&[b.clone(), a.clone()]);
        assert_eq!(places.all("one").unwrap(), [b.join("one")]);
        assert_eq!(places.all("two").unwrap(), [a.join("two")]);
        for absent in ["text", "pg_dump", "three"] {
            let error = places.all(absent).unwrap_err();
            assert!(matches!(&error, ToolError::Missing { tool, .. } if tool == absent), "{error}");
        }
    }
}
