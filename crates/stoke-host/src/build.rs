//! The role `build`: builds one image, says how far it is, and ends.
//!
//! What it says last stays in a file beside its socket, so that nobody has to be there when it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use stoke_api::report::{BuiltImage, ImageBuildReport, Report};
use stoke_api::workload::ImageBuildConfig;
use stoke_daemon::Launch;
use tokio_util::sync::CancellationToken;

use crate::files::write_json;
use crate::paths::Binaries;

/// Where a build leaves its last report: beside its socket.
pub fn report_path(socket: &Path) -> PathBuf {
    socket.with_extension("report.json")
}

struct Build {
    progress: Mutex<Progress>,
}

struct Progress {
    report: ImageBuildReport,
    stage_began: Instant,
    /// Whether the last report was left.
    done: bool,
}

impl stoke_daemon::Role for Build {
    type Config = ImageBuildConfig;
    const NAME: &'static str = "build";

    fn report(&self) -> Report {
        Report::ImageBuild(self.locked().report.clone())
    }

    fn ready(&self) -> bool {
        true
    }

    /// A build is of one recipe; another one is another build.
    async fn reload(&self, _: ImageBuildConfig) -> anyhow::Result<()> {
        anyhow::bail!("a build cannot be changed; stop it and start another")
    }
}

impl Build {
    fn new() -> Self {
        let report = ImageBuildReport { stage: "starting".to_owned(), ..ImageBuildReport::default() };
        Self { progress: Mutex::new(Progress { report, stage_began: Instant::now(), done: false }) }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self, stage: &str, percent: u8) {
        let mut progress = self.locked();
        if progress.report.stage != stage {
            progress.end_stage();
            tracing::info!(stage, "stage");
            stage.clone_into(&mut progress.report.stage);
        }
        progress.report.percent = percent.min(100);
    }

    fn ended(&self, result: anyhow::Result<BuiltImage>) -> ImageBuildReport {
        let mut progress = self.locked();
        progress.end_stage();
        match result {
            Ok(image) => {
                tracing::info!(digest = %image.digest, "built");
                (progress.report.image, progress.report.percent) = (Some(image), 100);
            }
            Err(error) => {
                tracing::error!("{error:#}");
                progress.report.failure = Some(format!("{error:#}"));
            }
        }
        progress.report.clone()
    }
}

impl Progress {
    fn end_stage(&mut self) {
        let took = u64::try_from(self.stage_began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.report.stages.push((self.report.stage.clone(), took));
        self.stage_began = Instant::now();
    }
}

/// Builds the image of the configuration, then ends. A build that fails ends well: its failure is in its report.
///
/// The last report is left in `report`, beside the socket if that is not given. Where it is given nobody asks at the socket,
/// so what the build does is written there all the time, for its group as well.
///
/// # Errors
/// If the role cannot run at all.
pub async fn run(launch: Launch, report: Option<PathBuf>) -> anyhow::Result<()> {
    let place = match report {
        Some(path) => Place { path, told: true },
        None => Place { path: report_path(&launch.socket), told: false },
    };
    if place.told {
        // Others of the group take care of what is built: they serve it, and drop it one day.
        rustix::process::umask(rustix::fs::Mode::WOTH);
    }
    stoke_daemon::run::<Build, _>(launch, |config, shutdown| async { start(config, place, shutdown) }).await
}

/// Where the report goes.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    /// Whether somebody reads it while the build runs.
    told: bool,
}

impl Place {
    fn write(&self, report: &ImageBuildReport) {
        let written = write_json(&self.path, report).and_then(|()| {
            let mode = if self.told { 0o640 } else { 0o600 };
            fs_err::set_permissions(&self.path, std::fs::Permissions::from_mode(mode))
        });
        if let Err(error) = written {
            tracing::error!("cannot leave the report: {error}");
        }
    }
}

fn start(config: ImageBuildConfig, place: Place, shutdown: CancellationToken) -> anyhow::Result<Arc<Build>> {
    let build = Arc::new(Build::new());
    let builder = build.clone();
    if place.told {
        tokio::spawn(tell(build.clone(), place.clone()));
    }
    let work = move || {
        let result = build_image(&config, &builder);
        let report = builder.ended(result);
        let mut progress = builder.locked();
        place.write(&report);
        progress.done = true;
        drop(progress);
        shutdown.cancel();
    };
    // A thread of its own and not the runtime's: a stopped process does not wait for it.
    std::thread::Builder::new().name("build".to_owned()).spawn(work).context("cannot start a thread")?;
    Ok(build)
}

/// Writes down once a second what is new, until the last report is there.
async fn tell(build: Arc<Build>, place: Place) {
    let mut last = None;
    loop {
        {
            let progress = build.locked();
            if progress.done {
                return;
            }
            if last.as_ref() != Some(&progress.report) {
                place.write(&progress.report);
                last = Some(progress.report.clone());
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

fn build_image(config: &ImageBuildConfig, build: &Build) -> anyhow::Result<BuiltImage> {
    let tools = stoke_image::Tools::of_host(Binaries::find()?.stoke_init);
    let mut progress = |progress: stoke_image::Progress| build.reached(&progress.stage, progress.percent);
    stoke_image::build(config, &tools, &mut progress).map_err(|error| match error.field() {
        Some(field) => anyhow::anyhow!("{field}: {error}"),
        None => error.into(),
    })
}
