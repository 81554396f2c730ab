//! `Image`: a source and the forms wanted of it.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::debian::DebianSource;
use super::image_source::{ContainerfileSource, OciSource, TreeSource};
use super::root_form::RootForm;
use super::{Access, ImageVersion, Problem};
use crate::Condition;
use crate::names::Digest;
use crate::registry::Reference;

/// What an image is made of, and the forms wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSpec {
    /// Where the root tree comes from; exactly one variant.
    pub source: ImageSource,
    /// Architectures to build for.
    #[serde(default = "amd64")]
    pub architectures: Vec<Architecture>,
    /// The forms wanted.
    #[serde(default)]
    pub forms: Forms,
    /// How many older versions are kept.
    #[serde(default = "three")]
    pub revision_history_limit: u32,
    /// Registries that get the version that is handed out, with its signatures: `HOST/REPOSITORY[:TAG]`. Without a tag each
    /// version has its own, the first digits of its digest. In a cluster the administrator says which places there may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Whose farms may hand it out.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

fn amd64() -> Vec<Architecture> {
    vec![Architecture::Amd64]
}

fn three() -> u32 {
    3
}

/// An instruction set, by Debian's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    Amd64,
}

/// Where the root tree of an image comes from: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSource {
    /// A Debian or Ubuntu recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debian: Option<DebianSource>,
    /// A Containerfile, built by buildah.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containerfile: Option<ContainerfileSource>,
    /// An OCI or Docker image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A directory or a tar archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeSource>,
}

impl ImageSource {
    /// Makes the paths of files absolute: they are seen from `folder`, where the file lies that names them.
    pub(super) fn resolve(&mut self, folder: &Path) {
        for lock in self.debian.iter_mut().filter_map(|source| source.lock.as_mut()) {
            *lock = folder.join(&*lock).to_string_lossy().into_owned();
        }
        self.containerfile.iter_mut().for_each(|source| source.resolve(folder));
        self.oci.iter_mut().for_each(|source| source.resolve(folder));
        self.tree.iter_mut().for_each(|source| source.resolve(folder));
    }

    fn check(&self, problems: &mut Vec<Problem>) {
        let named = [self.debian.is_some(), self.containerfile.is_some(), self.oci.is_some(), self.tree.is_some()];
        if named.iter().filter(|named| **named).count() != 1 {
            let message = "name exactly one source: debian, containerfile, oci or tree";
            return problems.push(Problem::new("spec.source", message));
        }
        self.debian.iter().for_each(|source| source.check(problems));
        self.containerfile.iter().for_each(|source| source.check(problems));
        self.oci.iter().for_each(|source| source.check(problems));
    }
}

/// The forms of an image: each is made only if it is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forms {
    /// Kernel, initramfs, verified root and unified kernel image for machines that boot from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netboot: Option<NetbootForm>,
}

/// The form for machines that boot from the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetbootForm {
    /// The root file system.
    #[serde(default)]
    pub root: RootForm,
    /// Kernel arguments, behind the ones that Stokehold sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_arguments: Vec<String>,
}

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Conditions: `Ready`, `Progressing`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// The version that farms hand out: the newest, or the one that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes of all its parts.
    #[serde(default)]
    pub size: u64,
    /// Version of its kernel.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// All versions that are there, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<ImageVersion>,
}

impl ImageSpec {
    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.access.check());
        self.source.check(&mut problems);
        if self.architectures.is_empty() {
            problems.push(Problem::new("spec.architectures", "name at least one architecture, for example amd64"));
        }
        problems.extend(self.publish.iter().enumerate().filter_map(|(index, text)| {
            let wrong = match text.parse::<Reference>() {
                Err(error) => error.to_string(),
                Ok(Reference { digest: Some(_), .. }) => "a digest cannot be chosen: it is the content's".to_owned(),
                Ok(_) => return None,
            };
            Some(Problem::new(format!("spec.publish[{index}]"), wrong))
        }));
        match &self.forms.netboot {
            None => problems.push(Problem::new("spec.forms", "name at least one form: netboot: {}")),
            Some(netboot) => netboot.root.check(&mut problems),
        }
        problems
    }
}
