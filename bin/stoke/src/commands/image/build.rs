//! `stoke image build FILE…`. Works without a running installation: the store is made for that.

use std::process::ExitCode;
use std::time::Duration;

use stoke_api::control::ObjectProblem;
use stoke_api::load::{self, Loaded};
use stoke_api::objects::{Problem, image_bases};
use stoke_api::report::BuiltImage;
use stoke_api::workload::ImageBuildConfig;
use stoke_api::{AnyObject, ObjectRef};
use stoke_host::Binaries;
use stoke_image::{BuildError, Tools};

use super::meter::Meter;
use super::shelf;
use crate::cli::Files;
use crate::failure::{BadFiles, Failure};
use crate::folders::Folders;
use crate::output;

pub(super) fn run(folders: &Folders, files: &Files) -> anyhow::Result<ExitCode> {
    let loaded = super::super::load(&files.paths)?;
    let objects = loaded.iter().flat_map(|loaded| &loaded.objects);
    let objects: Vec<_> = objects.map(|(object, _)| object).collect();
    let mut configs = Vec::new();
    for object in &objects {
        if let Some(config) = config(folders, object, &objects).map_err(|problem| wrong(&problem, object, &loaded))? {
            configs.push((object.reference(), config));
        }
    }
    if configs.is_empty() {
        return Err(Failure::hinted("there is no image in these files", "an image is an object of kind Image"));
    }
    let store = shelf::open_or_make(folders)?;
    let tools = Tools::of_host(Binaries::find()?.stoke_init);
    for (reference, config) in &configs {
        let mut meter = Meter::new(&config.name);
        let built = stoke_image::build(config, &tools, &mut |progress| meter.reached(&progress));
        meter.finish();
        let built = built.map_err(|error| in_its_file(error, reference, &loaded))?;
        // It may be an older version, whose recipe is wanted again.
        store.make_newest(&config.name, &built.digest)?;
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

/// What is built for an object, if it is an image. Images that it starts from are in the same files.
fn config(folders: &Folders, object: &AnyObject, all: &[&AnyObject]) -> Result<Option<ImageBuildConfig>, Problem> {
    let (AnyObject::Image(image), reference) = (object, object.reference()) else { return Ok(None) };
    let Some(namespace) = &reference.namespace else { return Ok(None) };
    let find = |name: &str| {
        let wanted = ObjectRef { name: name.parse().ok()?, ..reference.clone() };
        all.iter().find_map(|other| match other {
            AnyObject::Image(image) if other.reference() == wanted => Some(&image.spec),
            _ => None,
        })
    };
    let bases = image_bases(namespace.as_str(), reference.name.as_str(), &image.spec, &find)?;
    let name = format!("{namespace}/{}", image.metadata.name);
    Ok(Some(ImageBuildConfig { name, spec: image.spec.clone(), store: folders.images(), bases }))
}

/// A problem at the field of its file.
fn wrong(problem: &Problem, object: &AnyObject, loaded: &[Loaded]) -> anyhow::Error {
    let Problem { field, message } = problem.clone();
    let located = load::locate(loaded, &ObjectProblem { object: object.reference(), field, message: message.clone() });
    located.map_or_else(|| anyhow::anyhow!(message), |finding| BadFiles(vec![finding]).into())
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
