//! How far something is, for people who wait.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stoke_image::Progress;

/// Shows how far a build is: a bar on a terminal, a line for each stage elsewhere. On standard error: the result is data,
/// this is not.
pub(super) struct Meter {
    name: String,
    pub(super) began: Instant,
    stage: String,
    bar: Option<ProgressBar>,
}

impl Meter {
    pub(super) fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(100);
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos:>3}% {msg} [{elapsed}]");
            // A template that cannot be read leaves the default look.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { name: name.to_owned(), began: Instant::now(), stage: String::new(), bar }
    }

    pub(super) fn reached(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            bar.set_message(progress.stage.clone());
            bar.set_position(progress.percent.into());
        } else if self.stage != progress.stage {
            eprintln!("{:>7.1}s {} {}", self.began.elapsed().as_secs_f64(), self.name, progress.stage);
        }
        self.stage.clone_from(&progress.stage);
    }

    pub(super) fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
