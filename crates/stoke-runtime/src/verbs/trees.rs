//! Trees of mounts that a container's first process attaches, opened with the rights of the host.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use stoke_sys::mounts::{Change, attribute, change};

use super::inherit;
use crate::cgroup::{self, Group, Hierarchy};
use crate::error::{Context as _, Error, Result};
use crate::init::{MountOptions, open_tree};
use crate::spec::{Mount, Spec};
use crate::state::Process;
use crate::wire;

/// Trees of mounts that are opened with the rights of the host, before the container is there.
pub(super) struct Trees {
    pub(super) root: OwnedFd,
    pub(super) mounts: Vec<Option<OwnedFd>>,
    /// The container's folder in each hierarchy, if it is mounted.
    pub(super) cgroups: Vec<(Hierarchy, OwnedFd)>,
}

impl Trees {
    pub(super) fn open(spec: &Spec, bundle: &Path, rootfs: &Path, group: &Group) -> Result<Self> {
        let root = open_tree(CWD, rootfs, true).context(|| format!("root.path: {}", rootfs.display()))?;
        // What is mounted on it must not come back to the host, unless that is asked for later.
        let private = Change { propagation: PRIVATE, ..Change::default() };
        change(&root, true, &private).context(|| "root.path: propagation".to_owned())?;
        let one = |(index, mount): (usize, &Mount)| {
            let field = format!("mounts[{index}] ({})", mount.destination.display());
            let options = MountOptions::parse(&mount.options);
            let Some(recursive) = options.bind.or_else(|| (mount.kind == "bind").then_some(false)) else {
                return Ok(None);
            };
            let source = bundle.join(&mount.source);
            let tree =
                open_tree(CWD, &source, recursive).context(|| format!("{field}: source {}", source.display()))?;
            // One that is shared stays the host's peer only if the options want that.
            if options.propagation.is_empty() {
                change(&tree, true, &private).context(|| format!("{field}: propagation"))?;
            }
            Ok(Some(tree))
        };
        let mounts = spec.mounts.iter().enumerate().map(one).collect::<Result<_>>()?;
        let mut cgroups = Vec::new();
        if spec.mounts.iter().any(|mount| mount.kind == "cgroup") {
            for hierarchy in &group.view().hierarchies {
                let folder = group.folder(hierarchy);
                let tree = open_tree(CWD, &folder, false).context(|| format!("cannot open {}", folder.display()))?;
                change(&tree, false, &private).context(|| format!("{}: propagation", folder.display()))?;
                cgroups.push((hierarchy.clone(), tree));
            }
        }
        Ok(Self { root, mounts, cgroups })
    }

    /// The same for the container's first process. A hierarchy of version 2 that is alone has no name: it is the place itself.
    pub(super) fn cgroups(&self) -> Vec<wire::CgroupTree> {
        let is_alone = self.cgroups.len() == 1;
        let one = |(hierarchy, tree): &(Hierarchy, OwnedFd)| {
            let name = hierarchy.mountpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = if is_alone && hierarchy.version == cgroup::Version::V2 { String::new() } else { name };
            wire::CgroupTree { name, controllers: hierarchy.controllers.clone(), tree: inherit::number(tree) }
        };
        self.cgroups.iter().map(one).collect()
    }

    /// Gives mounts the ids of the container's user namespace, which is there only now.
    pub(super) fn map_ids(&self, spec: &Spec, init: Process) -> Result<()> {
        let linux = spec.linux();
        for (index, mount) in spec.mounts.iter().enumerate() {
            let field = || format!("mounts[{index}] ({}).uidMappings", mount.destination.display());
            let options = MountOptions::parse(&mount.options);
            let has_own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
            if !has_own && options.mapped.is_none() {
                continue;
            }
            let is_same = mount.uid_mappings == linux.uid_mappings && mount.gid_mappings == linux.gid_mappings;
            if has_own && !is_same {
                return Err(Error::field(field(), "other maps than those of the container are not supported"));
            }
            let tree = self.mounts.get(index).and_then(Option::as_ref);
            let tree = tree.ok_or_else(|| Error::field(field(), "only bind mounts can have mapped ids"))?;
            let namespace = std::fs::File::open(format!("/proc/{}/ns/user", init.pid)).context(field)?;
            let mapped = Change { set: attribute::IDMAP, mapping: Some(namespace.as_fd()), ..Change::default() };
            change(tree, options.mapped == Some(true), &mapped).context(field)?;
        }
        Ok(())
    }
}

/// `MS_PRIVATE`.
const PRIVATE: u64 = 1 << 18;
