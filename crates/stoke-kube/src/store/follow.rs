//! One watch for each kind: what it says goes into the cache, and what is wrong with it, too.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::Api;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use stoke_api::Kind;

use super::{AGAIN, Known};
use crate::object;

/// Watches a kind without end. A watch that expired (410) begins with a list again, which finds what was missed.
pub(super) async fn follow(kind: Kind, api: Api<DynamicObject>, known: Arc<Known>) {
    let mut watch = pin!(watcher(api, watcher::Config::default()));
    let mut pause = AGAIN.0;
    while let Some(news) = watch.next().await {
        match news {
            Ok(event) => {
                pause = AGAIN.0;
                take(kind, event, &known);
            }
            Err(error) => {
                let message = anyhow::Error::new(error);
                tracing::warn!("cannot watch {}: {message:#}", kind.plural());
                known.change(|cache| {
                    cache.troubled(kind, Some(format!("{message:#}")));
                    Vec::new()
                });
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

fn take(kind: Kind, event: Event<DynamicObject>, known: &Known) {
    known.change(|cache| {
        cache.troubled(kind, None);
        match event {
            Event::Init => {
                cache.begin_list(kind);
                Vec::new()
            }
            Event::InitApply(found) | Event::Apply(found) => cache.seen(kind, object::read(kind, &found)),
            Event::Delete(found) => cache.gone(kind, &found.metadata.uid.unwrap_or_default()),
            Event::InitDone => {
                let events = cache.end_list(kind);
                known.listed.notify_waiters();
                events
            }
        }
    });
}
