//! `stoke image build` and `stoke image list`. Both work without a running installation: the store is made for that.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use stoke_api::control::ObjectProblem;
use stoke_api::load::{self, Loaded};
use stoke_api::report::BuiltImage;
use stoke_api::workload::ImageBuildConfig;
use stoke_api::{AnyObject, ObjectRef};
use stoke_host::Binaries;
use stoke_image::{BuildError, Progress, Store, Tools};

use crate::cli::Files;
use crate::failure::{BadFiles, Failure};
use crate::folders::Folders;
use crate::output::{self, Table};

pub(crate) fn build(folders: &Folders, files: &Files) -> anyhow::Result<ExitCode> {
    let loaded = super::load(&files.paths)?;
    let objects = loaded.iter().flat_map(|loaded| &loaded.objects);
    let configs: Vec<_> =
        objects.filter_map(|(object, _)| Some((object.reference(), config(folders, object)?))).collect();
    if configs.is_empty() {
        return Err(Failure::hinted("there is no image in these files", "an image is an object of kind Image"));
    }
    let images = folders.images();
    let usable = Store::open(&images).map_err(anyhow::Error::new);
    usable.with_context(|| format!("cannot use {}; choose another folder with --state", folders.state.display()))?;
    let tools = Tools::of_host(Binaries::find()?.stoke_init);
    for (reference, config) in &configs {
        let mut meter = Meter::new(&config.name);
        let built = stoke_image::build(config, &tools, &mut |progress| meter.reached(&progress));
        meter.finish();
        let built = built.map_err(|error| in_its_file(error, reference, &loaded))?;
        output::print(&result(&config.name, &built, meter.began.elapsed()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The error at the field of the file that is to blame, if one is.
fn in_its_file(error: BuildError, image: &ObjectRef, loaded: &[Loaded]) -> anyhow::Error {
    let problem = error.field().map(|field| ObjectProblem {
        object: image.clone(),
        field: field.to_owned(),
        message: error.to_string(),
    });
    match problem.and_then(|problem| load::locate(loaded, &problem)) {
        Some(finding) => BadFiles(vec![finding]).into(),
        None => error.into(),
    }
}

fn config(folders: &Folders, object: &AnyObject) -> Option<ImageBuildConfig> {
    let AnyObject::Image(image) = object else { return None };
    let namespace = object.reference().namespace?;
    let name = format!("{namespace}/{}", image.metadata.name);
    Some(ImageBuildConfig { name, spec: image.spec.clone(), store: folders.images() })
}

fn result(name: &str, built: &BuiltImage, took: Duration) -> String {
    format!(
        "{name} {} ({}, kernel {}) in {:.1} s\n",
        built.digest,
        output::size(built.size),
        built.kernel_version,
        took.as_secs_f64()
    )
}

/// Shows how far a build is: a bar on a terminal, a line for each stage elsewhere. On standard error: the result is data,
/// this is not.
struct Meter {
    name: String,
    began: Instant,
    stage: String,
    bar: Option<ProgressBar>,
}

impl Meter {
    fn new(name: &str) -> Self {
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

    fn reached(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            bar.set_message(progress.stage.clone());
            bar.set_position(progress.percent.into());
        } else if self.stage != progress.stage {
            eprintln!("{:>7.1}s {} {}", self.began.elapsed().as_secs_f64(), self.name, progress.stage);
        }
        self.stage.clone_from(&progress.stage);
    }

    fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

pub(crate) fn list(folders: &Folders) -> anyhow::Result<ExitCode> {
    let path = folders.images();
    if !path.exists() {
        return Err(Failure::hinted(
            format!("there are no images at {}", path.display()),
            "build one: stoke image build FILE",
        ));
    }
    let mut table = Table::new(&["NAME", "DIGEST", "SIZE", "KERNEL"]);
    for (name, image) in Store::open(&path)?.list()? {
        table.row(vec![name, image.digest.short(), output::size(image.size), image.kernel_version]);
    }
    output::print(&table.render(""))?;
    Ok(ExitCode::SUCCESS)
}
