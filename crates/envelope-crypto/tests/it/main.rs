//! The envelope from the outside: every reader on every kind of file, good and bad.

// Helpers of tests may fail like tests.
#![allow(clippy::unwrap_used)]

mod damage;
mod fixture;
mod forge;
mod hostile;
mod origin;
mod pipeline;
mod ranges;
mod recovery;
mod round_trip;
mod sample;
mod settings;
mod suites;
mod vectors;
