//! The story of a build.
//!
//! ```text
//!  inputs ── known? ──> the version that is there
//!    │
//!    ├─ install packages   mmdebstrap -> cache/trees/DIGEST.tar.zst   (skipped if the recipe's tree is cached)
//!    ├─ inspect            what is in the tree: kernel, modules, packages
//!    ├─ root               clean tree -> squashfs or EROFS
//!    ├─ verity             hash tree behind it
//!    ├─ initramfs, uki     stoke-init, modules, root hash; all in one program
//!    └─ publish            parts, manifest, index
//! ```
//!
//! Half-done work is in a workspace of the store; it goes when the build ends or is killed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::node::{Baked, RootInfo};
use stoke_api::objects::{NetbootForm, RootFormat};
use stoke_api::report::BuiltImage;
use stoke_api::workload::{BlobRef, ImageBuildConfig};

use crate::clean::Rules;
use crate::install;
use crate::modules::{self, Selection};
use crate::process::{Space, version};
use crate::root::{self, Workshop};
use crate::sources::{self, Bench, Source, Tree};
use crate::store::{Draft, ImageConfig, Part, Store, Workspace, measure, media};
use crate::tree::{self, Cleaning, Kernel, Scan};
use crate::{BuildError, initramfs, sbom, uki, verity};

/// The stages themselves are an input: another program may make another image of the same recipe.
const STAGES: [&str; 12] = [
    include_str!("build.rs"),
    include_str!("clean.rs"),
    include_str!("clean/accounts.rs"),
    include_str!("clean/pattern.rs"),
    include_str!("cpio.rs"),
    include_str!("initramfs.rs"),
    include_str!("modules.rs"),
    include_str!("root.rs"),
    include_str!("sbom.rs"),
    include_str!("tree.rs"),
    include_str!("uki.rs"),
    include_str!("verity.rs"),
];
/// Kernel arguments of every image: both consoles, the serial one being the last and so init's; a node that cannot boot
/// starts over.
const KERNEL_ARGUMENTS: [&str; 4] = ["console=tty0", "console=ttyS0,115200", "quiet", "panic=30"];

/// The programs and files that a build uses.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `stoke-init`, statically linked.
    pub stoke_init: PathBuf,
    /// mmdebstrap.
    pub mmdebstrap: OsString,
    /// mksquashfs.
    pub mksquashfs: OsString,
    /// mkfs.erofs.
    pub mkfs_erofs: OsString,
    /// systemd's stub for unified kernel images.
    pub stub: PathBuf,
}

impl Tools {
    /// The programs of this host by their usual names.
    pub fn of_host(stoke_init: impl Into<PathBuf>) -> Self {
        Self {
            stoke_init: stoke_init.into(),
            mmdebstrap: "mmdebstrap".into(),
            mksquashfs: "mksquashfs".into(),
            mkfs_erofs: "mkfs.erofs".into(),
            stub: "/usr/lib/systemd/boot/efi/linuxx64.efi.stub".into(),
        }
    }
}

/// How far a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does now, for people.
    pub stage: String,
    /// How far this stage is.
    pub percent: u8,
}

/// Tells the listener about changes only.
struct Reporter<'a> {
    listener: &'a mut dyn FnMut(Progress),
    last: Option<Progress>,
}

impl Reporter<'_> {
    fn at(&mut self, stage: &str, percent: u8) {
        let now = Progress { stage: stage.to_owned(), percent };
        if self.last.as_ref() != Some(&now) {
            self.last = Some(now.clone());
            (self.listener)(now);
        }
    }
}

/// Builds an image, or finds the version that was built from the same inputs.
///
/// Two builds of the same recipe at once install once: the second waits.
///
/// # Errors
/// See [`BuildError`]. Nothing is published then, and nothing is left behind.
pub fn build(
    config: &ImageBuildConfig,
    tools: &Tools,
    progress: &mut dyn FnMut(Progress),
) -> Result<BuiltImage, BuildError> {
    let mut reporter = Reporter { listener: progress, last: None };
    reporter.at("prepare", 0);
    if let Some(problem) = config.spec.check().into_iter().next() {
        return Err(BuildError::Recipe { field: problem.field, message: problem.message });
    }
    let store = Store::open(&config.store)?;
    let job = Job::prepare(config, tools, &store)?;
    if let Some(built) = job.already_built(&config.name)? {
        return Ok(built);
    }
    let _only_one = sources::lock(&store, &job.tree)?;
    // Whoever held the lock may have built it.
    if let Some(built) = job.already_built(&config.name)? {
        return Ok(built);
    }
    job.run(&config.name, &mut reporter)
}

/// A build with all that it was asked.
struct Job<'a> {
    bench: Bench<'a>,
    source: Source<'a>,
    form: &'a NetbootForm,
    tree: Digest,
    stoke_init: Vec<u8>,
    stub: Vec<u8>,
    inputs: Digest,
}

impl<'a> Job<'a> {
    /// Reads everything that the result depends on, and finds out what is missing, before anything is done.
    fn prepare(config: &'a ImageBuildConfig, tools: &'a Tools, store: &'a Store) -> Result<Self, BuildError> {
        let missing = |field: &str, message: &str| BuildError::Recipe { field: field.into(), message: message.into() };
        let form = config.spec.forms.netboot.as_ref().ok_or_else(|| missing("spec.forms", "name a form"))?;
        let (architecture, privilege) = ("amd64", install::privilege()?);
        let bench = Bench { store, tools, privilege, architecture, name: &config.name, bases: &config.bases };
        let source = Source::prepare(&config.spec.source, &bench)?;
        let tree = source.digest();
        let stoke_init = fs::read(&tools.stoke_init)?;
        let stub = read_stub(&tools.stub)?;
        let versions = [source.tool_version(tools)?, file_system_version(tools, form)?];
        let arguments = kernel_arguments(form);
        let mut hash = Sha256::new();
        for part in [&STAGES.concat(), &config.name, &tree.to_string(), &versions.join(" "), &arguments] {
            hash.update(format!("{} {part}\n", part.len()));
        }
        hash.update(format!("{:?}\n", form.root));
        hash.update(Sha256::digest(&stoke_init));
        hash.update(Sha256::digest(&stub));
        let inputs = Digest(hash.finalize().into());
        Ok(Self { bench, source, form, tree, stoke_init, stub, inputs })
    }

    /// A version from the same inputs, whose parts are all there.
    fn already_built(&self, name: &str) -> Result<Option<BuiltImage>, BuildError> {
        let found = self.bench.store.find_built_from(name, &self.inputs)?;
        let there = |blob: &Digest| self.bench.store.blob_path(blob).exists();
        Ok(found.filter(|image| {
            let parts = [image.kernel.digest, image.initramfs.digest, image.root.blob];
            parts.iter().chain(image.uki.as_ref().map(|uki| &uki.digest)).all(there)
        }))
    }

    fn run(&self, name: &str, reporter: &mut Reporter<'_>) -> Result<BuiltImage, BuildError> {
        let workspace = self.bench.store.workspace()?;
        let mut space = Space { path: self.bench.store.path().to_owned(), needed: install::SMALLEST_TREE };
        space.check()?;
        let mut progress = |stage: &str, percent| reporter.at(stage, percent);
        let tree = Tree::of(&self.source, &self.bench, &workspace, &mut space, &mut progress)?;
        reporter.at("inspect", 0);
        let scan = tree::scan(&tree.path, tree.epoch).map_err(|error| space.explain(error))?;
        self.source.check(&scan.packages)?;
        let kernel = self.bootable(&scan)?;
        let selection = modules::select(&kernel.indexes).map_err(|missing| self.lacks(&missing.to_string()))?;
        let made =
            Made { workspace: &workspace, space: &space, tree: &tree, scan: &scan, kernel, selection: &selection };
        let (root, modules) = self.root(&made, reporter)?;
        reporter.at("initramfs", 0);
        let parts = self.parts(name, &made, &root, &modules).map_err(|error| match error {
            BuildError::File(error) => space.explain(error),
            other => other,
        })?;
        reporter.at("publish", 0);
        let config = ImageConfig {
            architecture: self.bench.architecture.to_owned(),
            kernel_version: kernel.version.clone(),
            kernel_arguments: kernel_arguments(self.form).split(' ').map(str::to_owned).collect(),
            root: root.info,
            built_at: scan.newest,
        };
        let draft = Draft { name: name.to_owned(), inputs: self.inputs, config, parts };
        let image = self.bench.store.publish(&draft)?;
        reporter.at("publish", 100);
        Ok(image)
    }

    /// The root with its hash tree, and the modules that were met on the way.
    fn root(&self, made: &Made<'_>, reporter: &mut Reporter<'_>) -> Result<(Root, Modules), BuildError> {
        reporter.at("root", 0);
        let rules = Rules::of(&self.form.root, self.source.own_paths());
        let Made { workspace, space, tree, scan, kernel, selection } = *made;
        let cleaning = Cleaning {
            rules: &rules,
            epoch: tree.epoch,
            newest: scan.newest,
            kernel: &kernel.version,
            wanted: &selection.files,
            people: &scan.people,
            links: &scan.links,
        };
        let workshop =
            Workshop { tools: self.bench.tools, workspace, privilege: self.bench.privilege, space, time: scan.newest };
        let (file, format, mut read) = (workspace.path().join("root"), self.form.root.format, 0);
        let modules = root::make(&workshop, &self.form.root, &file, |out| {
            tree::clean(&tree.path, &cleaning, out, |bytes| {
                read += bytes;
                let percent = (read * 100).checked_div(scan.size).unwrap_or_default();
                reporter.at("root", u8::try_from(percent.min(99)).unwrap_or(99));
            })
        })?;
        reporter.at("verity", 0);
        let verity = verity::append(&file).map_err(|error| space.explain(error))?;
        let BlobRef { digest, size } = measure(&file)?;
        let info = RootInfo { format, blob: digest, size, verity };
        Ok((Root { file, info }, modules))
    }

    /// The kernel of a tree that can boot.
    fn bootable<'s>(&self, scan: &'s Scan) -> Result<&'s Kernel, BuildError> {
        let kernel = scan.kernel().ok_or_else(|| {
            if scan.has_kernel_image() {
                self.lacks("its kernel has no modules.dep; add kmod, so that the kernel's package can run depmod")
            } else {
                self.lacks(&format!("it has no kernel; {}", self.source.remedy().1))
            }
        })?;
        if scan.has_init { Ok(kernel) } else { Err(self.lacks("it has no init system; add systemd-sysv")) }
    }

    fn lacks(&self, message: &str) -> BuildError {
        BuildError::Tree { field: self.source.remedy().0.to_owned(), message: message.to_owned() }
    }

    /// All files of the version.
    fn parts(&self, name: &str, made: &Made<'_>, root: &Root, modules: &Modules) -> Result<Vec<Part>, BuildError> {
        let Made { workspace, scan, kernel, selection, .. } = *made;
        let part = |media_type, name: &str, content: &[u8]| -> Result<Part, BuildError> {
            let file = workspace.path().join(name);
            fs::write(&file, content)?;
            Ok(Part { media_type, blob: measure(&file)?, file })
        };
        let baked = Baked {
            name: name.to_owned(),
            built_at: scan.newest,
            kernel: kernel.version.clone(),
            root: root.info.clone(),
        };
        let mut archive = initramfs::modules(&kernel.version, selection, modules)?;
        archive.extend(initramfs::init(&self.stoke_init, &baked, &kernel.indexes.builtin)?);
        let unified = uki::Parts {
            os_release: scan.os_release.clone(),
            arguments: kernel_arguments(self.form),
            kernel_version: kernel.version.clone(),
            initramfs: archive,
            kernel: kernel.image.clone(),
        };
        let packages: Vec<_> = scan.packages.iter().map(|described| &described.package).collect();
        let packages = serde_json::to_vec(&packages).unwrap_or_default();
        let subject = sbom::Subject { name, os_release: &scan.os_release, time: scan.newest };
        let root_blob = BlobRef { digest: root.info.blob, size: root.info.size };
        Ok(vec![
            part(media::KERNEL, "kernel", &unified.kernel)?,
            part(media::INITRAMFS, "initramfs", &unified.initramfs)?,
            Part { media_type: media::ROOT, file: root.file.clone(), blob: root_blob },
            part(media::UKI, "uki", &uki::assemble(&self.stub, &unified)?)?,
            part(media::PACKAGES, "packages", &packages)?,
            part(media::SBOM, "sbom", &sbom::spdx(&subject, &scan.packages))?,
        ])
    }
}

type Modules = std::collections::BTreeMap<String, Vec<u8>>;

/// What the stages behind the installation work on.
#[derive(Clone, Copy)]
struct Made<'a> {
    workspace: &'a Workspace,
    space: &'a Space,
    tree: &'a Tree,
    scan: &'a Scan,
    kernel: &'a Kernel,
    selection: &'a Selection,
}

struct Root {
    file: PathBuf,
    info: RootInfo,
}

fn read_stub(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            BuildError::ToolMissing { tool: path.display().to_string(), package: "systemd-boot-efi".to_owned() }
        }
        _ => BuildError::File(error),
    })
}

fn file_system_version(tools: &Tools, form: &NetbootForm) -> Result<String, BuildError> {
    match form.root.format {
        RootFormat::Squashfs => version(&tools.mksquashfs, "-version"),
        RootFormat::Erofs => version(&tools.mkfs_erofs, "-V"),
    }
}

fn kernel_arguments(form: &NetbootForm) -> String {
    let own = form.kernel_arguments.iter().map(String::as_str);
    KERNEL_ARGUMENTS.into_iter().chain(own).collect::<Vec<_>>().join(" ")
}
