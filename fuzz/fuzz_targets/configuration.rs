//! Configuration files and URLs: every problem is told with a place, none is a panic, and no message
//! shows a password.
#![no_main]

use dumpers::{SourceConfig, TargetConfig};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "aSecretOfManyLetters";

fuzz_target!(|text: &str| {
    for problem in cli::configuration_problems("strongroom.toml".as_ref(), text) {
        assert!(!problem.is_empty());
    }
    let with_password = format!("postgresql://user:{SECRET}@{text}");
    for url in [text, with_password.as_str()] {
        if let Err(error) = SourceConfig::from_url(url) {
            quiet(&error);
        }
        if let Err(error) = TargetConfig::from_url(url) {
            quiet(&error);
        }
    }
    if let Ok(config) = SourceConfig::from_url(&with_password) {
        assert!(!format!("{config:?}").contains(SECRET));
        if let Err(error) = dumpers::open_source(&config) {
            quiet(&error);
        }
    }
});

fn quiet(error: &backup_core::Error) {
    assert!(!format!("{error} {error:?}").contains(SECRET), "a password was shown");
}
