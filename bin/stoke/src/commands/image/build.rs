//! `stoke image build FILE…`. Works without a running installation: the store is made for that.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use stoke_api::control::ObjectProblem;
use stoke_api::load::{self, Loaded};
use stoke_api::report::BuiltImage;
use stoke_api::workload::ImageBuildConfig;
use stoke_api::{AnyObject, ObjectRef};
use stoke_host::Binaries;
use stoke_image::{BuildError, Store, Tools};

use super::meter::Meter;
use crate::cli::Files;
use crate::failure::{BadFiles, Failure};
use crate::folders::Folders;
use crate::output;

pub(super) fn run(folders: &Folders, files: &Files) -> anyhow::Result<ExitCode> {
    let loaded = super::super::load(&files.paths)?;
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
