//! Facts that are known only once a stream has ended cleanly.

use std::sync::{Arc, OnceLock};

/// The reading end of a fact that its [`Settler`] states before the stream it belongs to ends.
///
/// A producer calls [`Settler::settle`] before it yields `None`; a consumer calls
/// [`Settled::get`] after it saw that `None`. `None` from `get` means the stream has not ended
/// cleanly.
#[derive(Debug)]
pub struct Settled<T>(Arc<OnceLock<T>>);

/// The writing end of a [`Settled`] fact.
#[derive(Debug)]
pub struct Settler<T>(Arc<OnceLock<T>>);

impl<T> Settled<T> {
    /// A fact and the one hand that can state it.
    #[must_use]
    pub fn pending() -> (Settler<T>, Self) {
        let cell = Arc::new(OnceLock::new());
        (Settler(Arc::clone(&cell)), Self(cell))
    }

    /// A fact known from the start.
    pub fn known(value: T) -> Self {
        Self(Arc::new(OnceLock::from(value)))
    }

    /// The fact, once the stream it belongs to has ended cleanly.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Clone for Settled<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Settler<T> {
    /// States the fact, once.
    pub fn settle(self, value: T) {
        // The settler is consumed, so nobody can have stated it before.
        let _ = self.0.set(value);
    }
}
