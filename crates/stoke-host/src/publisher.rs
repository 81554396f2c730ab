//! Has image versions published to registries, and remembers which are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stoke_image::Store;
use stoke_reconcile::Publication;
use stoke_registry::{Options, Reference, Registry};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::registry;
use crate::store::LocalStore;

/// The note of what is published.
const PUBLISHED: &str = "published";
/// First and longest pause before a registry is tried again; doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_mins(15));
/// How many are uploaded at once.
const AT_ONCE: usize = 2;

/// Who we are to registries, and whom we believe.
#[derive(Clone, Debug, Default)]
pub enum RegistryLogin {
    /// As this user's docker, podman and skopeo.
    #[default]
    OfUser,
    /// A Secret of type `kubernetes.io/dockerconfigjson` in a folder, with the authority of the registries in `ca.crt` if
    /// that is there. Read each time: it may be changed.
    Folder(PathBuf),
}

impl RegistryLogin {
    fn options(&self) -> Options {
        let Self::Folder(folder) = self else { return Options::default() };
        let existing = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        Options { auth_file: existing(".dockerconfigjson"), ca_file: existing("ca.crt") }
    }
}

/// Publishes.
pub struct Publisher {
    notes: Arc<LocalStore>,
    store: Store,
    login: RegistryLogin,
    done: BTreeSet<Publication>,
    failed: BTreeMap<Publication, Failed>,
    pushing: BTreeSet<Publication>,
    pushes: JoinSet<(Publication, Result<(), String>)>,
}

struct Failed {
    why: String,
    times: u32,
    retry_at: Instant,
}

impl Publisher {
    /// Reads what is published.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn open(notes: Arc<LocalStore>, store: Store, login: RegistryLogin) -> anyhow::Result<Self> {
        let done = notes.note::<BTreeSet<Publication>>(PUBLISHED)?.unwrap_or_default();
        let (failed, pushing, pushes) = Default::default();
        Ok(Self { notes, store, login, done, failed, pushing, pushes })
    }

    /// What came of what was tried.
    pub fn seen(&self) -> BTreeMap<Publication, Result<(), String>> {
        let done = self.done.iter().map(|publication| (publication.clone(), Ok(())));
        let failed = self.failed.iter().map(|(publication, failed)| (publication.clone(), Err(failed.why.clone())));
        done.chain(failed).collect()
    }

    /// Begins to publish what is wanted and is not there; `wake` is notified when some of it is done. What is wanted no more
    /// stays in its registry, and is forgotten.
    ///
    /// # Errors
    /// If that cannot be remembered.
    pub fn publish(&mut self, wanted: Vec<Publication>, wake: &Arc<Notify>) -> anyhow::Result<()> {
        let wanted: BTreeSet<_> = wanted.into_iter().collect();
        self.failed.retain(|publication, _| wanted.contains(publication));
        let before = self.done.len();
        self.done.retain(|publication| wanted.contains(publication));
        if self.done.len() != before {
            self.remember()?;
        }
        for publication in wanted {
            let waits = self.failed.get(&publication).is_some_and(|failed| failed.retry_at > Instant::now());
            let known = self.done.contains(&publication) || self.pushing.contains(&publication);
            if waits || known || self.pushing.len() >= AT_ONCE {
                continue;
            }
            self.pushing.insert(publication.clone());
            let (store, options, wake) = (self.store.clone(), self.login.options(), wake.clone());
            self.pushes.spawn_blocking(move || {
                let pushed = push(&store, &publication, &options).map_err(|error| format!("{error:#}"));
                wake.notify_one();
                (publication, pushed)
            });
        }
        Ok(())
    }

    /// Takes note of what has ended.
    ///
    /// # Errors
    /// If it cannot be remembered.
    pub fn collect(&mut self) -> anyhow::Result<()> {
        let mut changed = false;
        while let Some(ended) = self.pushes.try_join_next() {
            let (publication, result) = ended?;
            self.pushing.remove(&publication);
            let Publication { image, digest, reference, .. } = &publication;
            match result {
                Ok(()) => {
                    tracing::info!(image, %digest, reference, "published");
                    self.failed.remove(&publication);
                    changed |= self.done.insert(publication);
                }
                Err(why) => {
                    tracing::warn!(image, %digest, reference, "cannot publish: {why}");
                    let times = self.failed.get(&publication).map_or(0, |failed| failed.times);
                    let pause = (RETRY.0 * (1 << times.min(10))).min(RETRY.1);
                    let failed = Failed { why, times: times + 1, retry_at: Instant::now() + pause };
                    self.failed.insert(publication, failed);
                }
            }
        }
        if changed { self.remember() } else { Ok(()) }
    }

    /// Whether something is being published.
    pub fn is_busy(&self) -> bool {
        !self.pushing.is_empty()
    }

    fn remember(&self) -> anyhow::Result<()> {
        Ok(self.notes.set_note(PUBLISHED, &self.done)?)
    }
}

fn push(store: &Store, publication: &Publication, options: &Options) -> anyhow::Result<()> {
    let reference: Reference = publication.reference.parse()?;
    let registry = Registry::open(&reference, options)?;
    registry::push(store, &publication.digest, &reference, &registry, &())
}
