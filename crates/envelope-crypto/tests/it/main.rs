//! The envelope from the outside: every reader on every kind of file, good and bad.

mod fixture;
mod round_trip;
