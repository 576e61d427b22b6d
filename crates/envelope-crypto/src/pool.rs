//! Buffers of one length that go round: allocating a fresh one for every block costs as much CPU as
//! sealing it.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Where buffers of one length come from and go back to.
#[derive(Debug)]
pub(crate) struct Pool {
    buffer_len: usize,
    keep: usize,
    free: Mutex<Vec<Vec<u8>>>,
    out: AtomicUsize,
    most_out: AtomicUsize,
}

impl Pool {
    /// Keeps up to `keep` returned buffers of `buffer_len` bytes for the next taker.
    pub(crate) fn new(buffer_len: usize, keep: usize) -> Arc<Self> {
        let (free, out, most_out) = Default::default();
        Arc::new(Self { buffer_len, keep, free, out, most_out })
    }

    /// A buffer of the pool's length; its content is whatever it was last used for.
    pub(crate) fn take(self: &Arc<Self>) -> Buffer {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = kept.unwrap_or_else(|| vec![0; self.buffer_len]);
        let out = self.out.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_out.fetch_max(out, Ordering::Relaxed);
        Buffer { bytes, pool: Arc::clone(self) }
    }

    /// The most buffers that were out at one time.
    #[cfg(test)]
    pub(crate) fn most_out(&self) -> usize {
        self.most_out.load(Ordering::Relaxed)
    }
}

/// A buffer on loan; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// A part of the buffer as shared bytes, without copying; the buffer goes back when the last
    /// of them is dropped.
    pub(crate) fn into_bytes(self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(range)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.out.fetch_sub(1, Ordering::Relaxed);
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.pool.keep {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_bytes_go() {
        let pool = Pool::new(8, 1);
        let mut buffer = pool.take();
        buffer.as_mut().copy_from_slice(b"abcdefgh");
        let bytes = buffer.into_bytes(2..5);
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(pool.out.load(Ordering::Relaxed), 1);
        assert_eq!(clone, "cde");
        drop(clone);
        assert_eq!((pool.out.load(Ordering::Relaxed), pool.most_out()), (0, 1));
        assert_eq!(pool.take().as_ref(), b"abcdefgh", "the same buffer again");
    }
}
