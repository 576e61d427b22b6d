//! Wrappers that are ports themselves.

mod throttle;

pub use throttle::Throttled;
