//! Threads that serve connections which have something to do. A connection that waits has none.
//!
//! Blocking calls in a thread of its own answer a request with the fewest calls and the fewest switches; a thread for
//! each of thousands of idle clients would be in nobody's interest. So threads are lent for as long as there is work.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads at most. Reads that must wait for a disk occupy one each.
const THREADS: usize = 64;
/// How long a thread waits for work before it ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stack of a thread: what is large is on the heap.
const STACK: usize = 256 << 10;

/// A piece of work, with the buffers of the thread that does it.
type Job = Box<dyn FnOnce(&mut Buffers) + Send>;

/// Memory that a thread lends to the connection that it serves.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// What is received.
    pub(crate) input: Vec<u8>,
    /// What is to be sent.
    pub(crate) output: Vec<u8>,
}

/// A pool of threads. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Jobs that wait for a thread.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.0.lock().threads).finish_non_exhaustive()
    }
}

impl Workers {
    /// Has a thread do it, the next one that is free.
    pub(crate) fn run(&self, job: impl FnOnce(&mut Buffers) + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_back(Box::new(job));
        self.0.waiting.store(state.jobs.len(), Ordering::Relaxed);
        if state.idle >= state.jobs.len() || state.threads == THREADS {
            self.0.work.notify_one();
            return;
        }
        let shared = self.0.clone();
        let started = std::thread::Builder::new().name("nbd".into()).stack_size(STACK).spawn(move || shared.serve());
        match started {
            Ok(_) => state.threads += 1,
            // The threads that there are will come to it.
            Err(error) => tracing::warn!(%error, threads = state.threads, "cannot start another thread for NBD"),
        }
    }

    /// Whether few threads are left.
    pub(crate) fn scarce(&self) -> bool {
        let state = self.0.lock();
        state.threads - state.idle > THREADS / 2
    }

    /// Whether somebody waits for a thread.
    pub(crate) fn crowded(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut buffers = Buffers::default();
        while let Some(job) = self.next() {
            // Whose connection it was has lost it; the thread is there for the others.
            if catch_unwind(AssertUnwindSafe(|| job(&mut buffers))).is_err() {
                buffers = Buffers::default();
            }
        }
    }

    /// The next job; `None` if there was none for a while.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.waiting.store(state.jobs.len(), Ordering::Relaxed);
                return Some(job);
            }
            state.idle += 1;
            let (after, time) = self.work.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = after;
            state.idle -= 1;
            if time.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn more_jobs_than_threads_are_all_done() {
        let (workers, (sender, receiver)) = (Workers::default(), mpsc::channel());
        let (open, gate) = (Arc::new((Mutex::new(false), Condvar::new())), 3 * THREADS);
        for number in 0..gate {
            let (sender, open) = (sender.clone(), open.clone());
            workers.run(move |_| {
                let guard = open.1.wait_while(open.0.lock().unwrap(), |open| !*open).unwrap();
                drop(guard);
                sender.send(number).unwrap();
            });
        }
        assert!(workers.crowded());
        *open.0.lock().unwrap() = true;
        open.1.notify_all();
        let mut done: Vec<_> = receiver.iter().take(gate).collect();
        done.sort_unstable();
        assert_eq!(done, (0..gate).collect::<Vec<_>>());
        assert_eq!(workers.0.lock().threads, THREADS);
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let (workers, (sender, receiver)) = (Workers::default(), mpsc::channel::<()>());
        for _ in 0..2 * THREADS {
            let sender = sender.clone();
            workers.run(move |_| {
                // Dropped by the panic, and not before.
                let _sender = sender;
                panic!("on purpose");
            });
        }
        drop(sender);
        assert!(
            receiver
                .recv_timeout(Duration::from_mins(1))
                .is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected)
        );
        let (sender, receiver) = mpsc::channel();
        workers.run(move |_| sender.send(()).unwrap());
        receiver.recv_timeout(Duration::from_mins(1)).unwrap();
    }
}
