//! Bounds for what strangers wrote.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// How much a tree may be.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes of all archives together, and of all files together: what a file says that it has counts.
    pub(crate) bytes: u64,
    /// How many times its stored form a layer may be, once it is larger than `free_ratio`.
    pub(crate) ratio: u64,
    /// Below this nobody is harmed, whatever the ratio.
    pub(crate) free_ratio: u64,
    /// Entries of all layers.
    pub(crate) entries: u64,
    /// Bytes of all names, link targets and attributes: they are held in memory.
    pub(crate) names: u64,
}

impl Default for Limits {
    /// A node's image is a few gigabytes; ten times that is nobody's.
    fn default() -> Self {
        Self { bytes: 64 << 30, ratio: 200, free_ratio: 1 << 30, entries: 4_000_000, names: 512 << 20 }
    }
}

/// Bytes that the description of one entry may take: long names and attributes.
const HEADER_BYTES: u64 = 1 << 20;

/// What is left for the description of an entry; nothing is counted while content is read.
#[derive(Clone, Default)]
pub(crate) struct HeaderBudget(Rc<Cell<Option<u64>>>);

impl HeaderBudget {
    pub(super) fn begin(&self) {
        self.0.set(Some(HEADER_BYTES));
    }

    pub(super) fn end(&self) {
        self.0.set(None);
    }

    fn spend(&self, bytes: u64) -> io::Result<()> {
        let Some(left) = self.0.get() else { return Ok(()) };
        let left =
            left.checked_sub(bytes).ok_or_else(|| too_much("an entry has more than 1 MiB of names and attributes"))?;
        self.0.set(Some(left));
        Ok(())
    }
}

/// A bound that was reached, carried through the libraries that read archives.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TooMuch(String);

fn too_much(message: impl Into<String>) -> io::Error {
    io::Error::other(TooMuch(message.into()))
}

/// The words of a bound that was reached, if that is what the error is about.
pub(super) fn reached(error: &io::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<TooMuch>() {
            return Some(found.0.clone());
        }
        if let Some(found) = inner.downcast_ref::<io::Error>() {
            return reached(found);
        }
        cause = inner.source();
    }
    None
}

/// Stops a stream that becomes too long.
pub(crate) struct Bounded<R> {
    inner: R,
    read: u64,
    most: u64,
    message: String,
    budget: HeaderBudget,
}

impl<R> Bounded<R> {
    /// `stored` is how long the stream's compressed form is.
    pub(crate) fn new(inner: R, limits: &Limits, stored: u64, budget: HeaderBudget) -> Self {
        let by_ratio = stored.saturating_mul(limits.ratio).max(limits.free_ratio);
        let most = by_ratio.min(limits.bytes);
        let message = if by_ratio < limits.bytes {
            format!("it unpacks to more than {} times its {stored} bytes, as no honest archive does", limits.ratio)
        } else {
            format!("it unpacks to more than {} bytes", limits.bytes)
        };
        Self { inner, read: 0, most, message, budget }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if self.read > self.most {
            return Err(too_much(self.message.clone()));
        }
        self.budget.spend(count as u64)?;
        Ok(count)
    }
}
