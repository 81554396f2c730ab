//! Builds of images: what their jobs left behind.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use stoke_api::AnyObject;
use stoke_api::report::ImageBuildReport;
use stoke_api::workload::{Role, Workload};
use stoke_host::supervise::EndedBuild;

use super::Leader;
use crate::plan::Seen;
use crate::{observe, render};

/// How long a report may take to be seen.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

impl Leader<'_> {
    pub(super) fn build_report(&self, name: &str) -> Option<ImageBuildReport> {
        let path = render::build::report(&self.operator.settings, name);
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Takes note of builds whose jobs have ended.
    pub(super) fn note_builds(&mut self, seen: &BTreeMap<String, Seen>, objects: &[AnyObject]) -> anyhow::Result<()> {
        let mut ended = Vec::new();
        for (name, seen) in seen {
            let Some(job) = seen.job.as_deref().filter(|job| job.metadata.deletion_timestamp.is_none()) else {
                continue;
            };
            let Some(end) = observe::job_end(job, seen.pod.as_deref()) else { continue };
            let Some(workload) = seen.map.as_deref().and_then(render::workload_in) else { continue };
            let path = render::build::report(&self.operator.settings, name);
            // What another node has written to the volume may be seen here a little later.
            let waits = end.is_ok() && !path.exists() && !is_late(job);
            if waits || self.noted(job, &workload) {
                continue;
            }
            let mut report = self.build_report(name).unwrap_or_default();
            if let (Err(why), None) = (end, &report.failure) {
                report.failure = Some(why);
            }
            if report.failure.is_none() && report.image.is_none() {
                report.failure = Some("the build ended without a result".to_owned());
            }
            drop(std::fs::remove_file(path));
            ended.push(EndedBuild { workload, report });
        }
        self.images.ended(ended, objects)
    }

    /// Whether a job's end was noted before, by this operator or by one before it. What was noted is wanted no more, so the
    /// job goes.
    fn noted(&mut self, job: &Job, workload: &Workload) -> bool {
        let Role::ImageBuild(config) = &workload.role else { return true };
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let made = job.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond());
        let known = self.images.known().get(&config.name).and_then(|known| known.last_build.as_ref());
        // Times of creation are whole seconds.
        let after = |finished: u64| i64::try_from(finished).is_ok_and(|finished| finished >= made + 1000);
        let before = known.is_some_and(|build| build.spec == config.spec && after(build.finished_ms));
        !self.certified.insert(format!("job {uid}")) || before
    }
}

/// Whether what a job has left behind must be there by now.
fn is_late(job: &Job) -> bool {
    let ended = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
    ended.is_none_or(|ended| jiff::Timestamp::now().duration_since(ended.0) > PATIENCE)
}
