//! Work in progress.

pub mod keys;
pub mod sign;
pub mod trust;
