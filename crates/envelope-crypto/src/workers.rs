//! Blocking threads that work on blocks, and the hash that consumes blocks in order without a
//! thread of its own.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;

use backup_core::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::format::BlockLen;

/// What blocks in flight may hold in memory, in bytes, on each of the two ways.
///
/// A block in flight holds one buffer of a block's length from the moment it begins to be filled
/// until its result is handed on; a worker holds one more while it works (the compressor's output,
/// or the decompressor's). So `(blocks + workers) * block_len <= BUDGET`: with blocks of 1 MiB,
/// 2 workers and 8 blocks hold 10 MiB. Larger blocks get fewer blocks in flight and fewer workers,
/// down to 1 worker and 2 blocks, which is the least that overlaps reading with work; at 16 MiB
/// that floor is 48 MiB.
pub(crate) const BUDGET: u64 = 24 << 20;

/// How many workers and blocks in flight fit into the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    pub(crate) blocks: usize,
}

impl Plan {
    /// The plan for `wanted` workers, 0 for one per core.
    pub(crate) fn new(wanted: usize, block_len: BlockLen) -> Self {
        let wanted = match wanted {
            0 => thread::available_parallelism().map_or(1, usize::from),
            some => some.min(256),
        };
        // At most 384, for a block has at least 64 KiB.
        let fit = (BUDGET / block_len.bytes()) as usize;
        // One block more than workers keeps all of them busy while the next is filled.
        let workers = wanted.min(fit.saturating_sub(1) / 2).max(1);
        let blocks = (fit.saturating_sub(workers)).min(3 * workers + 2).max(2);
        Self { workers, blocks }
    }
}

type Job<J, R> = (J, oneshot::Sender<R>);

/// Threads that take jobs in the order in which they were submitted. They end when this is dropped,
/// each after the job in its hands.
#[derive(Debug)]
pub(crate) struct Workers<J, R> {
    jobs: mpsc::Sender<Job<J, R>>,
    in_flight: VecDeque<oneshot::Receiver<R>>,
}

impl<J: Send + 'static, R: Send + 'static> Workers<J, R> {
    /// Starts `count` threads. Each calls `run`, which is given an iterator over the jobs it is to do
    /// through a [`Jobs`].
    pub(crate) fn start<F>(count: usize, name: &str, run: F) -> io::Result<Self>
    where
        F: Fn(Jobs<J, R>) + Send + Sync + 'static,
    {
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let run = Arc::new(run);
        for n in 0..count {
            let (queue, run) = (Arc::clone(&queue), Arc::clone(&run));
            thread::Builder::new().name(format!("{name}-{n}")).spawn(move || run(Jobs { queue }))?;
        }
        Ok(Self { jobs, in_flight: VecDeque::new() })
    }

    /// Adds a job behind the others; its result comes behind theirs.
    pub(crate) fn submit(&mut self, job: J) {
        let (answer, result) = oneshot::channel();
        // When no thread is left, the sender is dropped and the result says so.
        let _ = self.jobs.send((job, answer));
        self.in_flight.push_back(result);
    }

    /// How many results are still to be taken.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The result of the oldest job; `None` when there is no job. `Err` when its worker died.
    pub(crate) fn poll_oldest(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<R, WorkerDied>>> {
        use std::future::Future as _;
        use std::pin::Pin;
        use std::task::Poll;
        let Some(oldest) = self.in_flight.front_mut() else { return Poll::Ready(None) };
        match Pin::new(oldest).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.in_flight.pop_front();
                Poll::Ready(Some(result.map_err(|_| WorkerDied)))
            }
        }
    }
}

/// A worker thread panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerDied;

/// One worker's end of the queue.
#[derive(Debug)]
pub(crate) struct Jobs<J, R> {
    queue: Arc<Mutex<mpsc::Receiver<Job<J, R>>>>,
}

impl<J, R> Jobs<J, R> {
    /// Does jobs until there are no more to come.
    pub(crate) fn each(self, mut work: impl FnMut(J) -> R) {
        loop {
            // Waiting inside the lock is meant: the others wait for the lock instead.
            let job = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((job, answer)) = job else { return };
            if answer.is_closed() {
                // Nobody waits for it any more, nor for the ones behind it.
                return;
            }
            let _ = answer.send(work(job));
        }
    }
}

/// Hashes blocks in the order of their index, each in the thread that has it: a worker waits until
/// the block before was hashed. Hashing comes before compressing, so the wait is no longer than
/// hashing one block, and no thread more than the workers is busy.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    hash: Sha256,
    len: u64,
    /// Blocks after this one will never have their turn.
    broken_at: Option<u64>,
}

/// An earlier block failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

impl Turnstile {
    /// Announces block `index`. If the turn is dropped before it has passed, for whatever reason,
    /// every later block is refused instead of waiting for ever.
    pub(crate) fn turn(&self, index: u64) -> Turn<'_> {
        Turn { turnstile: self, index, passed: false }
    }

    /// Length and digest of all that passed.
    pub(crate) fn finish(&self) -> (u64, Sha256Digest) {
        let state = self.lock();
        (state.len, Sha256Digest(state.hash.clone().finalize().into()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block's turn at the [`Turnstile`].
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turnstile: &'a Turnstile,
    index: u64,
    passed: bool,
}

impl Turn<'_> {
    /// Waits for the turn and hashes the block.
    pub(crate) fn pass(mut self, plain: &[u8]) -> Result<(), Broken> {
        let mut state = self.turnstile.lock();
        while state.next < self.index && state.broken_at.is_none_or(|at| at > self.index) {
            state = self.turnstile.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.next != self.index {
            return Err(Broken);
        }
        state.hash.update(plain);
        state.len += plain.len() as u64;
        state.next += 1;
        self.passed = true;
        drop(state);
        self.turnstile.moved.notify_all();
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.passed {
            let mut state = self.turnstile.lock();
            state.broken_at = Some(state.broken_at.map_or(self.index, |at| at.min(self.index)));
            drop(state);
            self.turnstile.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_keeps_the_budget_and_says_how() {
        let plan = |workers, mib_64th: u64| Plan::new(workers, BlockLen::new(mib_64th << 16).unwrap());
        let table = [
            (plan(1, 16), (1, 5)),
            (plan(2, 16), (2, 8)),
            (plan(4, 16), (4, 14)),
            (plan(64, 16), (11, 13)),
            (plan(2, 64), (2, 4)),
            (plan(8, 128), (1, 2)),
            (plan(2, 256), (1, 2)),
            (plan(2, 1), (2, 8)),
        ];
        for (plan, expected) in table {
            assert_eq!((plan.workers, plan.blocks), expected);
        }
        for wanted in 0..40 {
            for shift in 16..=23 {
                let len = BlockLen::new(1 << shift).unwrap();
                let plan = Plan::new(wanted, len);
                assert!((plan.workers + plan.blocks) as u64 * len.bytes() <= BUDGET, "{plan:?} {len:?}");
                assert!(plan.blocks > plan.workers);
            }
        }
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_told_and_results_stay_in_order() {
        let mut workers = Workers::start(2, "test", |jobs: Jobs<u32, u32>| {
            jobs.each(|n| if n == 3 { panic!("job 3") } else { n });
        })
        .unwrap();
        (0..6).for_each(|n| workers.submit(n));
        assert_eq!(workers.in_flight(), 6);
        let mut results = Vec::new();
        while let Some(result) = std::future::poll_fn(|cx| workers.poll_oldest(cx)).await {
            results.push(result);
        }
        assert_eq!(results, [Ok(0), Ok(1), Ok(2), Err(WorkerDied), Ok(4), Ok(5)]);
    }

    #[test]
    fn the_hash_is_in_order_whatever_the_order_of_arrival() {
        let turnstile = Turnstile::default();
        thread::scope(|scope| {
            for i in (0..50_u64).rev() {
                let turnstile = &turnstile;
                scope.spawn(move || turnstile.turn(i).pass(&i.to_be_bytes()));
            }
        });
        let all: Vec<u8> = (0..50_u64).flat_map(u64::to_be_bytes).collect();
        assert_eq!(turnstile.finish(), (400, Sha256Digest::of(&all)));
    }

    #[test]
    fn a_lost_turn_refuses_the_later_and_not_the_earlier() {
        let turnstile = Turnstile::default();
        thread::scope(|scope| {
            let later = scope.spawn(|| turnstile.turn(3).pass(b"d"));
            let earlier = scope.spawn(|| turnstile.turn(1).pass(b"b"));
            drop(turnstile.turn(2));
            assert_eq!(later.join().unwrap(), Err(Broken));
            assert_eq!(turnstile.turn(0).pass(b"a"), Ok(()));
            assert_eq!(earlier.join().unwrap(), Ok(()));
        });
    }
}
