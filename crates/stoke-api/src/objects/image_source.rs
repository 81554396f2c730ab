//! Where the root tree of an [`Image`](super::ImageSpec) comes from, beside Debian recipes: a Containerfile, an OCI image, a
//! directory or tar archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ImageSpec, Problem};
use crate::names::ObjectName;

/// A root tree that buildah makes of a Containerfile (or Dockerfile).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerfileSource {
    /// The file, seen from the folder of the file that says this.
    #[serde(default = "containerfile")]
    pub path: PathBuf,
    /// The folder that `COPY` and `ADD` take files from; the folder of `path` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<PathBuf>,
    /// Values for its `ARG`s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// The stage that becomes the image; the last one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What `FROM NAME` and `COPY --from=NAME` mean: the root tree of another `Image` of the same namespace. No registry is
    /// asked for these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bases: BTreeMap<String, ObjectName>,
}

fn containerfile() -> PathBuf {
    "Containerfile".into()
}

/// A root tree from the layers of an OCI or Docker image: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OciSource {
    /// An image of a registry, for example `quay.io/fedora/fedora-bootc:42` or `registry.lan/node@sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// A folder in the form of an OCI image layout, seen from the folder of the file that says this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<PathBuf>,
    /// An archive of such a folder, or one that `docker save` wrote. It may be compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<PathBuf>,
}

/// A root tree that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TreeSource {
    /// A folder, or a tar archive (plain, gzip or zstd), seen from the folder of the file that says this.
    pub path: PathBuf,
}

impl ContainerfileSource {
    /// The folder that files are copied from.
    pub fn context(&self) -> &Path {
        let beside = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.context.as_deref().or(beside).unwrap_or(Path::new("."))
    }

    pub(super) fn resolve(&mut self, folder: &Path) {
        self.path = folder.join(&self.path);
        self.context = self.context.as_ref().map(|context| folder.join(context));
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        for name in self.build_args.keys() {
            let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if name.is_empty() || !word {
                let field = format!("spec.source.containerfile.buildArgs.{name}");
                problems.push(Problem::new(field, format!("{name:?} is no name of a build argument")));
            }
        }
        let stage = |name: &str| {
            !name.is_empty()
                && !name.starts_with(['-', '.'])
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        for name in self.bases.keys().filter(|name| !stage(name)) {
            let field = format!("spec.source.containerfile.bases.{name}");
            problems.push(Problem::new(field, format!("{name:?} cannot be the name behind FROM")));
        }
        if let Some(target) = self.target.as_deref().filter(|target| !stage(target)) {
            problems
                .push(Problem::new("spec.source.containerfile.target", format!("{target:?} is no name of a stage")));
        }
    }
}

/// The images that an image starts from, and those that these start from, by `NAMESPACE/NAME`. `find` gives the image of a
/// name in the namespace.
///
/// # Errors
/// With the field that names an image that is not there, or one that leads back here.
pub fn image_bases<'a>(
    namespace: &str,
    name: &str,
    spec: &'a ImageSpec,
    find: &dyn Fn(&str) -> Option<&'a ImageSpec>,
) -> Result<BTreeMap<String, ImageSpec>, Problem> {
    let mut found = BTreeMap::new();
    let mut left = vec![(name.to_owned(), spec, vec![name.to_owned()])];
    while let Some((image, spec, way)) = left.pop() {
        let Some(containerfile) = &spec.source.containerfile else { continue };
        for (stage, base) in &containerfile.bases {
            let (field, base) = (format!("spec.source.containerfile.bases.{stage}"), base.as_str());
            if way.iter().any(|passed| passed == base) {
                let circle = way.join(" -> ");
                return Err(Problem::new(field, format!("image {base} starts from itself: {circle} -> {base}")));
            }
            let of = if image == name { String::new() } else { format!(", which image {image} starts from") };
            let missing = || Problem::new(field.clone(), format!("there is no image {namespace}/{base}{of}"));
            let spec = find(base).ok_or_else(missing)?;
            found.insert(format!("{namespace}/{base}"), spec.clone());
            left.push((base.to_owned(), spec, [way.clone(), vec![base.to_owned()]].concat()));
        }
    }
    Ok(found)
}

impl OciSource {
    pub(super) fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.layout, &mut self.archive].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let named = [self.reference.is_some(), self.layout.is_some(), self.archive.is_some()];
        if named.iter().filter(|named| **named).count() != 1 {
            problems.push(Problem::new("spec.source.oci", "name exactly one of reference, layout, archive"));
        }
        let word = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.contains(char::is_whitespace);
        let wrong = self.reference.as_deref().filter(|text| !word(text) || text.contains("://"));
        if let Some(reference) = wrong {
            let message = format!("{reference:?} is no reference; write for example registry.lan/node:1");
            problems.push(Problem::new("spec.source.oci.reference", message));
        }
    }
}

impl TreeSource {
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.path = folder.join(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Forms, ImageSource};

    fn on(bases: &[(&str, &str)]) -> ImageSpec {
        let bases = bases.iter().map(|(stage, image)| ((*stage).to_owned(), image.parse().unwrap())).collect();
        let containerfile =
            ContainerfileSource { path: "Containerfile".into(), bases, ..ContainerfileSource::default() };
        ImageSpec {
            source: ImageSource { containerfile: Some(containerfile), ..ImageSource::default() },
            architectures: Vec::new(),
            forms: Forms::default(),
            revision_history_limit: 0,
            publish: Vec::new(),
            access: crate::objects::Access::default(),
        }
    }

    #[test]
    fn bases_of_bases_are_found_and_circles_are_told() {
        let all = BTreeMap::from([
            ("a", on(&[("x", "b"), ("y", "c")])),
            ("b", on(&[("x", "c")])),
            ("c", on(&[])),
            ("one", on(&[("z", "two")])),
            ("two", on(&[("z", "one")])),
            ("lost", on(&[("z", "nowhere")])),
        ]);
        let bases = |name: &str| image_bases("lab", name, &all[name], &|name| all.get(name));
        assert_eq!(bases("a").unwrap().into_keys().collect::<Vec<_>>(), ["lab/b", "lab/c"]);
        assert!(bases("one").unwrap_err().message.contains("one -> two -> one"));
        let lost = bases("lost").unwrap_err();
        assert_eq!(
            (lost.field.as_str(), lost.message.as_str()),
            ("spec.source.containerfile.bases.z", "there is no image lab/nowhere")
        );
    }

    #[test]
    fn paths_are_seen_from_the_file_that_names_them() {
        let mut source = ContainerfileSource { path: "node/Containerfile".into(), ..ContainerfileSource::default() };
        source.resolve(Path::new("/srv"));
        assert_eq!(
            (source.path.as_path(), source.context()),
            (Path::new("/srv/node/Containerfile"), Path::new("/srv/node"))
        );
        source.context = Some("/elsewhere".into());
        source.resolve(Path::new("/other"));
        assert_eq!(
            (source.path.as_path(), source.context()),
            (Path::new("/srv/node/Containerfile"), Path::new("/elsewhere"))
        );
    }
}
