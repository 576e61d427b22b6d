//! The process list, as anybody on the machine sees it.

use std::fs;

/// A process with its arguments and, since it is ours, its environment.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) arguments: String,
    pub(crate) environment: String,
}

/// Every process whose environment can be read and holds `mark`.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| {
            fs::read(entry.path().join(file)).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', "\n"))
        };
        if let (Ok(arguments), Ok(environment)) = (read("cmdline"), read("environ"))
            && environment.lines().any(|line| line == mark)
        {
            found.push(Process { pid, arguments, environment });
        }
    }
    found
}

/// The arguments of every process there is.
pub(crate) fn all_arguments() -> String {
    let mut all = String::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        if let Ok(bytes) = fs::read(entry.path().join("cmdline")) {
            all.push_str(&String::from_utf8_lossy(&bytes).replace('\0', " "));
            all.push('\n');
        }
    }
    all
}
