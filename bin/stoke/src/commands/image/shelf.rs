//! The image store with what an installation knows of it: who uses a version, and whose signatures are good.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Serialize;
use stoke_api::objects::Kind;
use stoke_api::{AnyObject, Digest, ObjectRef};
use stoke_host::Store as _;
use stoke_image::Store;
use stoke_image::store::Version;

use super::keys;
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;

/// The store, which must be there.
pub(super) fn open(folders: &Folders) -> anyhow::Result<Store> {
    let path = folders.images();
    if !path.exists() {
        return Err(Failure::hinted(
            format!("there are no images at {}", path.display()),
            "build one: stoke image build FILE",
        ));
    }
    Ok(Store::open(&path)?)
}

/// The store, made now if there is none.
pub(super) fn open_or_make(folders: &Folders) -> anyhow::Result<Store> {
    let opened = Store::open(folders.images()).map_err(anyhow::Error::new);
    opened.with_context(|| format!("cannot use {}; choose another folder with --state", folders.state.display()))
}

/// All objects, whether the installation runs or not; none if there is none.
///
/// Fails if it is there and cannot be asked: whoever removes something must know what is used.
pub(in crate::commands) fn objects(folders: &Folders) -> anyhow::Result<Vec<AnyObject>> {
    super::super::blocking(async {
        let client = Client::new(&folders.control_socket())?;
        if client.is_alive().await? {
            let mut all = Vec::new();
            for kind in Kind::ALL {
                all.extend(client.list(kind, None).await?);
            }
            return Ok(all);
        }
        match stoke_host::up::look(folders).await? {
            Some((store, _)) => Ok(store.list()?),
            None => Ok(Vec::new()),
        }
    })
}

/// What is known of versions beside their content.
pub(super) struct Known {
    users: BTreeMap<Digest, BTreeSet<ObjectRef>>,
    signers: BTreeMap<Digest, Vec<String>>,
    /// Names of this installation's keys by their fingerprints.
    names: BTreeMap<String, String>,
}

impl Known {
    /// All that can be found out about these versions.
    pub(super) fn of(folders: &Folders, store: &Store, versions: &[Digest]) -> anyhow::Result<Self> {
        let objects = objects(folders)?;
        Ok(Self {
            users: stoke_host::in_use(&objects),
            signers: stoke_host::signers(store, versions, &objects, &folders.image_keys())?,
            names: keys::names(folders),
        })
    }

    /// The objects that use a version: `machine/node-1`.
    pub(super) fn users(&self, version: &Digest) -> Vec<String> {
        self.users.get(version).into_iter().flatten().map(ToString::to_string).collect()
    }

    /// The keys that have signed a version: by their names here, else by the first digits of their fingerprints.
    pub(super) fn signers(&self, version: &Digest) -> Vec<String> {
        let name = |fingerprint: &String| {
            let short = || fingerprint.trim_start_matches("sha256:").chars().take(12).collect();
            self.names.get(fingerprint).cloned().unwrap_or_else(short)
        };
        self.signers.get(version).into_iter().flatten().map(name).collect()
    }

    /// A version as it is listed.
    pub(super) fn row(&self, name: &str, version: &Version) -> Row {
        Row {
            name: name.to_owned(),
            digest: version.image.digest,
            built_at: built_at(version),
            size: version.image.size,
            kernel: version.image.kernel_version.clone(),
            handed_out: version.handed_out,
            kept: version.kept,
            signed_by: self.signers(&version.image.digest),
            used_by: self.users(&version.image.digest),
        }
    }
}

/// A version as it is listed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) built_at: String,
    pub(super) size: u64,
    pub(super) kernel: String,
    pub(super) handed_out: bool,
    pub(super) kept: bool,
    pub(super) signed_by: Vec<String>,
    pub(super) used_by: Vec<String>,
}

/// RFC 3339; empty if nobody took note.
fn built_at(version: &Version) -> String {
    let seconds = version.published.and_then(|seconds| i64::try_from(seconds).ok());
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}
