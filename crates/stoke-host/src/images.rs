//! What is built: image versions from the image store, how their builds ended, and each farm's own parts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use stoke_api::Digest;
use stoke_api::objects::AnyObject;
use stoke_api::workload::BlobRef;
use stoke_image::Signature;
use stoke_image::store::Version;
use stoke_reconcile::{FarmPartRequest, FarmParts, FinishedBuild, KnownImage, VersionNote};
use stoke_secureboot::KeySet;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::authority::Authority;
use crate::in_use::in_use;
use crate::record::now_ms;
use crate::signatures::{self, Keys, Signed};
use crate::store::LocalStore;
use crate::supervise::EndedBuild;

const BUILDS: &str = "builds";
const PARTS: &str = "farm-parts";
/// Pause before a farm's parts are tried again.
const RETRY: Duration = Duration::from_secs(15);

type PartsKey = (String, Digest);
/// When the image store changed last.
type Generation = Option<(SystemTime, u64)>;
type MadeParts = (PartsKey, Result<FarmParts, stoke_image::BuildError>);

/// What is built.
pub struct Images {
    notes: Arc<LocalStore>,
    store: stoke_image::Store,
    /// Where keys of this installation are that sign versions.
    own_keys: PathBuf,
    /// What was looked at last: the store's generation, and the keys.
    looked: Option<(Generation, Keys)>,
    signed: Signed,
    /// Why the image store could not be read the last time.
    trouble: Option<String>,
    authority: Arc<Authority>,
    tools: String,
    known: BTreeMap<String, KnownImage>,
    parts: BTreeMap<PartsKey, FarmParts>,
    making: BTreeSet<PartsKey>,
    made: JoinSet<MadeParts>,
    /// Parts that could not be made, and when that was.
    failed: BTreeMap<PartsKey, (Instant, String)>,
}

impl Images {
    /// Reads what is there.
    ///
    /// # Errors
    /// If the stores cannot be read.
    pub fn open(
        notes: Arc<LocalStore>,
        store: stoke_image::Store,
        authority: Arc<Authority>,
        tools: String,
        own_keys: PathBuf,
        objects: &[AnyObject],
    ) -> anyhow::Result<Self> {
        let mut images = Self {
            notes,
            store,
            own_keys,
            looked: None,
            signed: Signed::new(),
            trouble: None,
            authority,
            tools,
            known: BTreeMap::new(),
            parts: BTreeMap::new(),
            making: BTreeSet::new(),
            made: JoinSet::new(),
            failed: BTreeMap::new(),
        };
        let builds: BTreeMap<String, FinishedBuild> = images.notes.note(BUILDS)?.unwrap_or_default();
        for (name, build) in builds {
            images.known.entry(name).or_default().last_build = Some(build);
        }
        images.parts = images.remembered_parts()?;
        images.look(objects);
        Ok(images)
    }

    /// By `NAMESPACE/NAME`.
    pub fn known(&self) -> &BTreeMap<String, KnownImage> {
        &self.known
    }

    /// By farm and image version.
    pub fn parts(&self) -> &BTreeMap<PartsKey, FarmParts> {
        &self.parts
    }

    /// Why parts could not be made.
    pub fn failures(&self) -> BTreeMap<PartsKey, String> {
        self.failed.iter().map(|(key, (_, why))| (key.clone(), why.clone())).collect()
    }

    /// By a key as objects write it, the versions that it has signed.
    pub fn signed(&self) -> &BTreeMap<String, Result<BTreeSet<Digest>, String>> {
        &self.signed
    }

    /// Reads versions and signatures again if anybody changed the image store, or if other keys are wanted: the store
    /// belongs to every `stoke image` as well. While it cannot be read, what was known before holds.
    pub fn look(&mut self, objects: &[AnyObject]) {
        let trouble = self.read(objects).err().map(|error| format!("{error:#}"));
        if let Some(trouble) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!("cannot read the image store: {trouble}");
        }
        self.trouble = trouble;
    }

    fn read(&mut self, objects: &[AnyObject]) -> anyhow::Result<()> {
        let mut keys = signatures::wanted_keys(objects);
        keys.extend(signatures::own_keys(&self.own_keys));
        let now = (self.store.generation()?, keys);
        if self.looked.as_ref() == Some(&now) {
            return Ok(());
        }
        let (mut signed, mut fresh) = (Signed::new(), BTreeMap::new());
        for name in self.store.names()? {
            let versions = self.store.versions(&name)?;
            let digests: Vec<_> = versions.iter().map(|version| version.image.digest).collect();
            let found = signatures::verify(&self.store, &digests, &now.1)?;
            merge(&mut signed, found.signed);
            let notes: Vec<_> = versions.iter().map(|version| note(version, &found.signers)).collect();
            let (first, others): (Vec<_>, Vec<_>) = versions.into_iter().partition(|version| version.handed_out);
            let versions: Vec<_> = first.into_iter().chain(others).map(|version| version.image).collect();
            fresh.insert(name, (versions, notes));
        }
        for known in self.known.values_mut() {
            (known.versions, known.notes) = Default::default();
        }
        for (name, found) in fresh {
            let known = self.known.entry(name).or_default();
            (known.versions, known.notes) = found;
        }
        self.signed = signed;
        self.looked = Some(now);
        self.forget_parts()
    }

    /// Takes note of builds that have ended, and drops versions beyond what their images keep, but none that the objects
    /// need.
    ///
    /// # Errors
    /// If the stores cannot be read or written.
    pub fn ended(&mut self, builds: Vec<EndedBuild>, objects: &[AnyObject]) -> anyhow::Result<()> {
        if builds.is_empty() {
            return Ok(());
        }
        for build in builds {
            self.note_end(build, objects);
        }
        let builds = self.known.iter().filter_map(|(name, known)| Some((name.clone(), known.last_build.clone()?)));
        Ok(self.notes.set_note(BUILDS, &builds.collect::<BTreeMap<_, _>>())?)
    }

    fn note_end(&mut self, ended: EndedBuild, objects: &[AnyObject]) {
        let stoke_api::workload::Role::ImageBuild(config) = ended.workload.role else { return };
        let known = self.known.entry(config.name.clone()).or_default();
        let before = known
            .last_build
            .take()
            .filter(|build| build.spec == config.spec && build.bases == config.bases && build.tools == self.tools);
        let failed = ended.report.failure.is_some();
        let built = ended.report.image.as_ref().map(|image| image.digest);
        known.last_build = Some(FinishedBuild {
            attempts: before.map_or(0, |build| build.attempts) + u32::from(failed),
            image: built,
            spec: config.spec.clone(),
            bases: config.bases.clone(),
            tools: self.tools.clone(),
            failure: ended.report.failure,
            finished_ms: now_ms(),
        });
        if let Some(digest) = built.filter(|_| !failed) {
            // It may be an older version, whose inputs are wanted again.
            if let Err(error) = self.store.make_newest(&config.name, &digest) {
                tracing::warn!(image = config.name, "cannot hand out what was built: {error}");
            }
            self.prune(&config.name, config.spec.revision_history_limit, objects);
        }
    }

    fn prune(&self, name: &str, older: u32, objects: &[AnyObject]) {
        let keep = usize::try_from(older).unwrap_or(usize::MAX).saturating_add(1);
        let used: Vec<_> = in_use(objects).into_keys().collect();
        let pruned = self.store.prune(name, keep, &used);
        match pruned {
            Ok(pruned) if pruned.versions.is_empty() => {}
            Ok(pruned) => tracing::info!(image = name, versions = pruned.versions.len(), "dropped old versions"),
            Err(error) => tracing::warn!(image = name, "cannot drop old versions: {error}"),
        }
    }

    /// Forgets farms' parts that went with their versions.
    fn forget_parts(&mut self) -> anyhow::Result<()> {
        let there = |uki: &BlobRef| self.store.blob_path(&uki.digest).exists();
        let (before, parts) = (self.parts.len(), std::mem::take(&mut self.parts));
        self.parts = parts.into_iter().filter(|(_, parts)| parts.uki.as_ref().is_none_or(there)).collect();
        if self.parts.len() != before {
            self.notes.set_note(PARTS, &self.parts.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Parts that were made for the authority of today and that are still there.
    fn remembered_parts(&self) -> anyhow::Result<BTreeMap<PartsKey, FarmParts>> {
        let remembered: Vec<(PartsKey, FarmParts)> = self.notes.note(PARTS)?.unwrap_or_default();
        if remembered.is_empty() {
            return Ok(BTreeMap::new());
        }
        let own = stoke_image::farm_initramfs(&self.store, self.authority.certificate())?;
        let there = |digest: &Digest| self.store.blob_path(digest).exists();
        let usable = |(_, parts): &(PartsKey, FarmParts)| {
            parts.initramfs == own && there(&own.digest) && parts.uki.is_none_or(|uki| there(&uki.digest))
        };
        Ok(remembered.into_iter().filter(usable).collect())
    }

    /// Begins to make parts that are wanted; `wake` is notified when some are done.
    pub fn make(&mut self, requests: Vec<FarmPartRequest>, wake: &Arc<Notify>) {
        for request in requests {
            let key = (request.farm.clone(), request.image.digest);
            let waits = self.failed.get(&key).is_some_and(|(at, _)| at.elapsed() < RETRY);
            if waits || !self.making.insert(key.clone()) {
                continue;
            }
            let (store, authority, wake) = (self.store.clone(), self.authority.clone(), wake.clone());
            self.made.spawn_blocking(move || {
                let made = make(&store, authority.certificate(), &request);
                wake.notify_one();
                (key, made)
            });
        }
    }

    /// Takes in the parts that are done.
    ///
    /// # Errors
    /// If they cannot be remembered.
    pub fn collect(&mut self) -> anyhow::Result<()> {
        let mut changed = false;
        while let Some(made) = self.made.try_join_next() {
            let (key, made) = made?;
            self.making.remove(&key);
            match made {
                Ok(parts) => {
                    tracing::info!(farm = key.0, image = %key.1, "made the farm's own boot files");
                    self.failed.remove(&key);
                    self.parts.insert(key, parts);
                    changed = true;
                }
                // It was pruned in the meantime.
                Err(_) if !self.store.blob_path(&key.1).exists() => {}
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::error!(farm = key.0, image = %key.1, "cannot make the farm's own boot files: {error}");
                    self.failed.insert(key, (Instant::now(), error));
                }
            }
        }
        if changed {
            self.notes.set_note(PARTS, &self.parts.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Whether something is being made.
    pub fn is_busy(&self) -> bool {
        !self.making.is_empty()
    }
}

fn note(version: &Version, signers: &BTreeMap<Digest, Vec<String>>) -> VersionNote {
    let published =
        version.published.and_then(|seconds| jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
    VersionNote {
        digest: version.image.digest,
        published: published.map(|time| time.to_string()).unwrap_or_default(),
        kept: version.kept,
        signed_by: signers.get(&version.image.digest).cloned().unwrap_or_default(),
    }
}

/// What keys have signed of one image beside what they have signed of others.
fn merge(all: &mut Signed, one: Signed) {
    for (key, signed) in one {
        match (all.get_mut(&key), signed) {
            (Some(Ok(all)), Ok(signed)) => all.extend(signed),
            (_, signed) => {
                all.insert(key, signed);
            }
        }
    }
}

fn make(
    store: &stoke_image::Store,
    certificate: &str,
    request: &FarmPartRequest,
) -> Result<FarmParts, stoke_image::BuildError> {
    let initramfs = stoke_image::farm_initramfs(store, certificate)?;
    let FarmPartRequest { image, keys, .. } = request;
    // The key is read here, by the process that owns it, and not by builds, which run what people wrote.
    let sign =
        |program| keys.as_ref().map_or(Err(std::io::ErrorKind::NotFound.into()), |keys| sign(&keys.folder, program));
    let signature = keys.as_ref().map(|keys| Signature { fingerprint: &keys.fingerprint, sign: &sign });
    let uki = |_| stoke_image::farm_uki(store, image, &initramfs, signature.as_ref());
    let uki = image.uki.map(uki).transpose()?;
    Ok(FarmParts { initramfs, uki, signed_by: keys.as_ref().map(|keys| keys.fingerprint.clone()) })
}

fn sign(folder: &Path, program: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let missing = || std::io::Error::other(format!("there are no keys at {}", folder.display()));
    let signer = KeySet::find(folder).ok_or_else(missing)?.signer().map_err(std::io::Error::other)?;
    stoke_secureboot::authenticode::sign(program, &signer).map_err(std::io::Error::other)
}
