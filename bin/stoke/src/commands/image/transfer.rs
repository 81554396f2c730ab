//! How far a transfer is: a bar on a terminal, a line for each part elsewhere. On standard error, as the result is data.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stoke_host::registry::Meter;

/// A transfer that people wait for.
pub(super) struct Transfer {
    name: String,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Transfer {
    /// Begins to show one of so many bytes; zero if nobody knows how many.
    pub(super) fn new(name: &str, bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match bytes {
                0 => (ProgressBar::no_length(), "{prefix} {bytes} {msg} [{elapsed}]"),
                _ => (ProgressBar::new(bytes), "{prefix} {bar:30} {bytes}/{total_bytes} {msg} [{elapsed}]"),
            };
            // A template that cannot be read leaves the default look.
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { name: name.to_owned(), began: Instant::now(), bar }
    }

    /// What is done now.
    pub(super) fn at(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{:>7.1}s {} {what}", self.began.elapsed().as_secs_f64(), self.name),
        }
    }

    /// So many bytes more are done.
    pub(super) fn add(&self, bytes: u64) {
        self.bar.iter().for_each(|bar| bar.inc(bytes));
    }
}

impl Meter for Transfer {
    fn at(&self, what: &str) {
        Self::at(self, what);
    }

    fn add(&self, bytes: u64) {
        Self::add(self, bytes);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
