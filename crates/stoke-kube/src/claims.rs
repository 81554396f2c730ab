//! `Claim`s: what only one object may have, kept in the cluster by names that encode the values, so that the API server refuses
//! the second one.
//!
//! ```text
//!  API server ──list and watch──> table: name, holder ──> reconcilers, webhook (never wait)
//!      ^                            ^
//!      └── keeper: create, delete ──┘      who has written knows what was written
//! ```
//!
//! A value is held from the moment its claim is written. A claim goes when its holder is gone or wants the value no more, and
//! that is asked of the API server first. People do not write them, so that `Claim` is none of [`stoke_api::Kind`].
//!
//! What this module never does: decide whose a value is; that is `stoke-reconcile`'s.

mod keeper;
mod table;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use stoke_api::{API_VERSION, ObjectRef};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub(crate) use self::keeper::ClaimKeeper;
use self::table::Table;
use crate::crd;
use crate::store::AGAIN;
use crate::watched::{REFUSED_FOR, Unfilled, refusal};

/// The kind.
pub const KIND: &str = "Claim";
/// Objects of a page of a list: as many are decoded at a time.
const PAGE: u32 = 500;
/// Requests at a time.
const AT_ONCE: usize = 16;

/// How claims are asked for.
pub fn resource() -> ApiResource {
    ApiResource {
        group: crd::GROUP.to_owned(),
        version: crd::version().to_owned(),
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        plural: crd::CLAIMS.to_owned(),
    }
}

/// The claims of a cluster.
pub struct Claims {
    client: Client,
    known: Arc<Known>,
    /// Ends with this.
    _watch: Mutex<JoinSet<()>>,
}

/// What is known of them, shared with the watch.
struct Known {
    table: Mutex<Table>,
    /// Told of each change, for a loop that looks at everything anyway.
    wake: Arc<Notify>,
    /// Told when all were listed.
    listed: Notify,
}

impl Known {
    /// Changes the table. Whoever looks at everything is told if that made a difference.
    fn change(&self, change: impl FnOnce(&mut Table) -> bool) {
        if change(&mut self.table()) {
            self.wake.notify_one();
        }
    }

    /// The table, for who needs not be told.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claims {
    /// Begins to watch them; `wake` is told of changes. The watch ends with this.
    pub fn open(client: Client, wake: Arc<Notify>) -> Self {
        let known = Arc::new(Known { table: Mutex::default(), wake, listed: Notify::new() });
        let mut watch = JoinSet::new();
        watch.spawn(follow(api(&client), known.clone()));
        Self { client, known, _watch: Mutex::new(watch) }
    }

    /// Who has what, as far as is known.
    pub fn held(&self) -> Arc<BTreeMap<String, ObjectRef>> {
        self.known.table().held()
    }

    /// Waits until all were listed once.
    ///
    /// # Errors
    /// If the API server refuses that for a while. One that does not answer is waited for.
    pub async fn filled(&self) -> Result<(), Unfilled> {
        loop {
            let told = self.known.listed.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.known.table().is_complete() {
                return Ok(());
            }
            tokio::select! {
                () = told => {}
                () = tokio::time::sleep(REFUSED_FOR) => {
                    // An API server that does not answer is waited for.
                    if let Some(message) = self.known.table().refusal.clone() {
                        return Err(Unfilled { kind: KIND.to_owned(), message });
                    }
                }
            }
        }
    }

    /// Removes them all.
    ///
    /// # Errors
    /// With the first one that the API server does not remove.
    pub async fn remove(&self) -> Result<(), kube::Error> {
        let api = api(&self.client);
        let claims = api.list_metadata(&ListParams::default()).await?;
        let names = claims.iter().map(|claim| Ok::<_, kube::Error>(claim.name_any()));
        let remove = |name: String| {
            let api = api.clone();
            async move {
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    deleted => deleted.map(drop),
                }
            }
        };
        futures::stream::iter(names).try_for_each_concurrent(AT_ONCE, remove).await
    }
}

fn api(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource())
}

/// The holder that a claim names, if this version knows such objects.
fn holder(claim: &DynamicObject) -> Option<ObjectRef> {
    serde_json::from_value(claim.data.get("spec")?.get("holder")?.clone()).ok()
}

/// The API server's versions grow.
fn version(claim: &DynamicObject) -> u64 {
    claim.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Watches without end. A watch that expired (410) begins with a list again.
async fn follow(api: Api<DynamicObject>, known: Arc<Known>) {
    let mut watch = pin!(watcher(api, watcher::Config::default().page_size(PAGE)));
    let mut pause = AGAIN.0;
    while let Some(news) = watch.next().await {
        match news {
            Ok(event) => {
                pause = AGAIN.0;
                known.change(|table| take(event, table));
                known.listed.notify_waiters();
            }
            Err(error) => {
                known.table().refusal = refusal(&error);
                tracing::warn!("cannot watch claims: {:#}", anyhow::Error::new(error));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

/// Whether anybody else has something now.
fn take(event: Event<DynamicObject>, table: &mut Table) -> bool {
    table.refusal = None;
    match event {
        Event::Init => table.begin_list(),
        Event::InitDone => table.end_list(),
        Event::Delete(claim) => table.gone(&claim.name_any(), version(&claim)),
        Event::InitApply(claim) | Event::Apply(claim) => match holder(&claim) {
            Some(holder) => table.seen(claim.name_any(), holder, version(&claim)),
            // Of another version: whoever wants the value finds it taken.
            None => false,
        },
    }
}
