//! What TFTP serves of a configuration.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustix::fs::OFlags;
use stoke_api::workload::Architecture;
use stoke_api::{Digest, MacAddr};
use stoke_boot::old_paths::{self, OldPath, Program};
use stoke_tftp::Outcome;
use stoke_tftp::server::{Asked, Content, Ended, Files, OnDisk};
use tracing::field::display;

use crate::boot_files;
use crate::config::{Identity, Serving};
use crate::farm::Farm;
use crate::trace::Noted;

impl Files for Farm {
    /// A boot program by its name (firmware that was given a path by an older set-up asks for one in a folder), a blob by
    /// its path, or a loader's configuration.
    fn open(&self, name: &str, client: SocketAddr) -> Option<Arc<dyn Content>> {
        let serving = self.serving();
        let last = name.rsplit('/').next().unwrap_or(name);
        if let Some(program) = serving.programs.get(name).or_else(|| serving.programs.get(last)) {
            return Some(program.clone());
        }
        if let Some(blob) = blob_by_name(&serving, name) {
            return Some(Arc::new(blob));
        }
        Some(text(boot_files::config(self, name, Some(client.ip()))?))
    }

    /// What a DHCP server still names that was set up for an older farm goes before what has the same name here.
    fn find(&self, asked: &Asked<'_>) -> Option<Arc<dyn Content>> {
        let serving = self.serving();
        if !serving.programs.contains_key(asked.name)
            && let Some(found) = old_path(&serving, asked)
        {
            let mac = self.trace.mac_of(asked.client.ip()).map(display);
            tracing::info!(mac, client = %asked.client, name = asked.name, "TFTP: a path of an older farm");
            return Some(found);
        }
        self.open(asked.name, asked.client)
    }

    fn ended(&self, ended: &Ended<'_>) {
        let result = match ended.outcome {
            Outcome::Complete if ended.repeated > 0 => format!("complete, {} blocks sent again", ended.repeated),
            Outcome::Complete => "complete".to_owned(),
            Outcome::Unconfirmed => "sent whole, not confirmed".to_owned(),
            // Firmware asks so before each transfer; the transfer itself is what matters.
            Outcome::Probe => return,
            Outcome::Aborted(reason) => format!("given up by the client: {reason}"),
            Outcome::Silent => "the client went silent".to_owned(),
        };
        let Ended { client, name, took, bytes, .. } = *ended;
        let noted = Noted::now("tftp", name, result.clone()).took(took).bytes(bytes);
        let mac = self.trace.client(client.ip(), noted).map(display);
        match ended.outcome {
            Outcome::Silent => {
                tracing::warn!(mac, %client, name, "TFTP: {result}; is a firewall in the way of our answers?");
            }
            Outcome::Aborted(_) => tracing::warn!(mac, %client, name, "TFTP: {result}"),
            _ => tracing::info!(mac, %client, name, took_ms = took.as_millis(), bytes, "TFTP: {result}"),
        }
    }

    fn refused(&self, client: SocketAddr, name: &str, reason: &str) {
        let mac = self.trace.client(client.ip(), Noted::now("tftp", name, reason)).map(display);
        tracing::info!(mac, %client, name, reason, "TFTP: refused");
    }
}

fn text(text: String) -> Arc<dyn Content> {
    Arc::new(text.into_bytes())
}

/// What a path of an older farm stands for, if this is one.
fn old_path(serving: &Serving, asked: &Asked<'_>) -> Option<Arc<dyn Content>> {
    let old = OldPath::parse(asked.name)?;
    let config = &serving.config;
    let script = || text(old_paths::find_farm(&serving.base_url(), (config.address.into(), config.tftp_port)));
    // iPXE says what it is by the size that it asks for; whatever loaded it, it is sent to the same path again.
    let ipxe = asked.request.option("blksize") == Some(old_paths::IPXE_BLOCK);
    match old {
        OldPath::Settings => Some(text(old_paths::SETTINGS.to_owned())),
        OldPath::Script => Some(script()),
        OldPath::Bios | OldPath::Uefi if ipxe => Some(script()),
        OldPath::Bios | OldPath::Uefi => match old.program(config.loader)? {
            Program::Named(name) => Some(serving.programs.get(name)?.clone()),
            Program::Kernel => Some(Arc::new(blob(serving, &unified_kernel(serving, asked.client.ip())?)?)),
        },
    }
}

/// The unified kernel image that the x86-64 machine at an address boots.
fn unified_kernel(serving: &Serving, client: IpAddr) -> Option<Digest> {
    let mac = boot_files::neighbour(client).unwrap_or(MacAddr([0; 6]));
    let identity = serving.identify(mac, &[], None).unwrap_or(Identity::Stranger(mac));
    serving.image_for(&identity, Architecture::Amd64)?.uki.map(|uki| uki.digest)
}

/// A blob by its path on the HTTP server: loaders that cannot load by HTTP, and firmware that loads the kernel itself, get
/// it here.
fn blob_by_name(serving: &Serving, name: &str) -> Option<OnDisk> {
    let name = name.strip_prefix("v1/blob/sha256/")?;
    blob(serving, &Digest::from_hex(name.strip_suffix(".efi").unwrap_or(name)).ok()?)
}

fn blob(serving: &Serving, digest: &Digest) -> Option<OnDisk> {
    let (path, size) = serving.blob(digest)?;
    match open_sized(&path, size).and_then(OnDisk::new) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::error!(%digest, %error, "TFTP: cannot serve a blob");
            None
        }
    }
}

/// Opens a file that must have this size. A link is not followed, so nothing outside of the folder is ever served; a pipe or
/// a device does not hold whoever opens it.
pub(crate) fn open_sized(path: &std::path::Path, size: u64) -> std::io::Result<File> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs_err::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let file: File = file.into();
    let found = file.metadata()?.len();
    if found == size {
        return Ok(file);
    }
    let message = format!("{} has {found} bytes instead of {size}; build the image again", path.display());
    Err(std::io::Error::other(message))
}
