//! From flags, variables and a file to settings that are understood: the command line over the
//! environment over the file, every problem reported at once.

mod environment;
mod file;
mod keyring;
mod layers;
mod problem;
pub(crate) mod reference;
mod resolve;
mod table;
mod value;

pub(crate) use environment::Environment;
pub(crate) use file::{File, Found, Table, Value};
pub(crate) use problem::Origin;
pub(crate) use problem::{Problem, nearest};
pub(crate) use resolve::{KeyName, Needs, RawArgs, Settings};
#[cfg(test)]
pub(crate) use table::SETTINGS;
pub(crate) use table::{DATABASE_FIELDS, Kind};
pub(crate) use value::{Compression, Destination, Kdf, PassphraseFrom, Rate, SecretKeyFrom};
