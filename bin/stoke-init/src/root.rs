//! The root: a block device by NBD, in memory or on a disk of the node, in each case under dm-verity; or a directory by NFS,
//! which is not verified.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use stoke_api::node::{Mode, RootInfo};
use stoke_sys::loopdev::LoopDevice;

use crate::disk::{self, SlotRoot, Wanted};
use crate::identity::Hardware;
use crate::journal::Journal;
use crate::modules::Loader;
use crate::nbd::{self, Device, Export, Keeper, Servers, ahead};
use crate::plan::Plan;
use crate::{layers, nfs, ram, verity};

/// Connections to the farm at most. More help where several processors read at once.
const MOST_CONNECTIONS: u32 = 4;

/// An attached and verified root.
#[derive(Debug)]
pub(crate) struct Attached {
    /// The device through which every block is checked; none by NFS.
    pub(crate) mapped: Option<PathBuf>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// With the page cache over the device, if something is fetched ahead.
    Nbd(Device, Export, Option<LoopDevice>),
    /// With the memory behind it.
    Ram(LoopDevice, OwnedFd),
    Disk(Box<SlotRoot>),
    Nfs,
}

impl Attached {
    /// `nbd`, `ram`, `disk` or `nfs`.
    pub(crate) fn mode(&self) -> &'static str {
        self.source.mode()
    }

    /// The NBD device, if it is one.
    pub(crate) fn nbd(&self) -> Option<(&Device, &Export)> {
        match &self.source {
            Source::Nbd(device, export, _) => Some((device, export)),
            Source::Ram(..) | Source::Disk(_) | Source::Nfs => None,
        }
    }

    /// The slot of the node's disk, if it is in one.
    pub(crate) fn slot(&mut self) -> Option<&mut SlotRoot> {
        match &mut self.source {
            Source::Disk(slot) => Some(slot),
            _ => None,
        }
    }

    /// For another attempt: nothing of this one is left.
    pub(crate) fn give_back(self) {
        layers::take_apart();
        self.source.give_back();
    }

    /// The NBD device, if what is read of it is kept in memory: then it is of use to read ahead.
    pub(crate) fn cached_nbd(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Nbd(device, _, Some(_)) => Some(device.path()),
            _ => None,
        }
    }

    /// The memory that it is in, if it is.
    pub(crate) fn memory(&self) -> Option<&OwnedFd> {
        match &self.source {
            Source::Ram(_, memory) => Some(memory),
            Source::Nbd(..) | Source::Disk(_) | Source::Nfs => None,
        }
    }

    /// Descriptors that the resident needs: connections that have to live on, the memory, or the disk.
    pub(crate) fn descriptors(&self) -> &[OwnedFd] {
        match &self.source {
            Source::Nbd(device, ..) => device.connections.as_slice(),
            Source::Ram(_, memory) => std::slice::from_ref(memory),
            Source::Disk(slot) => std::slice::from_ref(slot.descriptor()),
            Source::Nfs => &[],
        }
    }
}

impl Source {
    fn mode(&self) -> &'static str {
        match self {
            Self::Nbd(..) => "nbd",
            Self::Ram(..) => "ram",
            Self::Disk(_) => "disk",
            Self::Nfs => "nfs",
        }
    }

    fn give_back(self) {
        let corrupted = verity::found_corruption();
        // What is not there is not missed, and what stays behind is in nobody's way.
        let _ = verity::close();
        match self {
            Self::Nbd(device, _, cached) => {
                drop(cached);
                let _ = nbd::detach(device.index);
            }
            Self::Disk(slot) => slot.give_back(corrupted),
            Self::Ram(..) | Self::Nfs => {}
        }
    }

    /// Its block device.
    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Nbd(_, _, Some(cached)) => Some(cached.path.clone()),
            Self::Nbd(device, _, None) => Some(device.path()),
            Self::Ram(device, _) => Some(device.path.clone()),
            Self::Disk(slot) => Some(slot.device.clone()),
            Self::Nfs => None,
        }
    }
}

/// Attaches the root, maps it through dm-verity and mounts it; or mounts it by NFS.
pub(crate) fn attach(
    plan: &Plan,
    root: &RootInfo,
    hardware: &Hardware,
    loader: &mut Loader,
    journal: &Journal,
) -> Result<Attached> {
    loader.load("overlay", c"")?;
    if plan.mode == Mode::Nfs {
        let nfs = plan.nfs.as_ref().context("the farm names no NFS server")?;
        nfs::attach(nfs, layers::LOWER, loader)?;
        return Ok(Attached { mapped: None, source: Source::Nfs });
    }
    // Both are parts of some kernels, and asked for by the names of their algorithms, which only modprobe could follow: by EROFS
    // while it is loaded (`libcrc32c_mod_init` in lib/libcrc32c.c), and by the verity target, which says so if it is missing.
    for algorithm in ["crc32c_generic", "sha256_generic"] {
        let _ = loader.load(algorithm, c"");
    }
    for module in ["dm_verity", layers::file_system(root.format)] {
        loader.load(module, c"")?;
    }
    let source = if plan.mode == Mode::Disk {
        let disk = plan.disk.as_ref().context("the farm names no disk")?;
        let wanted = Wanted { disk, root, http: &plan.http, chunks: &plan.chunks };
        Source::Disk(Box::new(disk::attach(&wanted, loader, journal)?))
    } else if plan.in_memory(root.size, hardware.memory) {
        loader.load("loop", c"max_loop=0")?;
        let (device, memory) = ram::attach(&plan.http, root, journal)?;
        Source::Ram(device, memory)
    } else {
        by_nbd(plan, root, hardware, loader, journal)?
    };
    match source.path().map(|device| verified(&device, root)).transpose() {
        Ok(mapped) => Ok(Attached { mapped, source }),
        Err(error) => {
            let error = error.context(format!("root by {}", source.mode()));
            let error = verity::explain(error, &root.blob);
            source.give_back();
            Err(error)
        }
    }
}

fn verified(device: &Path, root: &RootInfo) -> Result<PathBuf> {
    let mapped = verity::open(device, &root.verity)?;
    verity::probe(&mapped)?;
    Ok(mapped)
}

fn by_nbd(plan: &Plan, root: &RootInfo, hardware: &Hardware, loader: &mut Loader, journal: &Journal) -> Result<Source> {
    // Devices are made when they are connected.
    loader.load("nbd", c"nbds_max=0")?;
    let (servers, verity) = (plan.nbd.clone(), root.verity.clone());
    let export = Export { servers, name: plan.export.clone(), size: root.size, verity };
    let wanted = hardware.cpus.clamp(2, MOST_CONNECTIONS);
    let device = Device::attach(&export, usize::try_from(wanted)?)?;
    let cached = (!plan.hot.is_empty()).then(|| ahead::cached(&device.path(), loader, journal)).flatten();
    Ok(Source::Nbd(device, export, cached))
}

/// Replaces connections that die while PID 1 still works; the resident does it afterwards.
pub(crate) fn keep_meanwhile(attached: &Attached, journal: &'static Journal) -> Result<()> {
    let Some((device, export)) = attached.nbd() else { return Ok(()) };
    let connections = device.connections.iter().map(OwnedFd::try_clone).collect::<std::io::Result<Vec<_>>>();
    let connections = connections.context("could not copy a descriptor")?;
    let (servers, device) = (Servers::new(export.servers.clone()), Device { index: device.index, connections });
    let mut keeper = Keeper::new(export.clone(), servers, device)?;
    std::thread::spawn(move || keeper.run(journal));
    Ok(())
}
