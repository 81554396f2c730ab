//! Builds of images: what a job leaves behind becomes the image's status, and the job goes.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use stoke_api::report::ImageBuildReport;

use super::{farm, settled};
use crate::cluster::until;
use crate::operator::world::{NAMESPACE, World, publish};

const BUILD: &str = "build-default-node";

fn jobs(world: &World) -> Api<Job> {
    Api::namespaced(world.client.clone(), NAMESPACE)
}

/// What the cluster's job controller says in the end.
async fn ends(world: &World, well: bool) {
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": "Test", "message": message,
            "lastTransitionTime": now, "lastProbeTime": now})
    };
    let (counts, before, end) = if well {
        let counts = json!({"startTime": now, "completionTime": now, "succeeded": 1});
        (counts, condition("SuccessCriteriaMet", ""), condition("Complete", ""))
    } else {
        let end = condition("Failed", "it reached the backoff limit");
        (json!({"startTime": now, "failed": 1}), condition("FailureTarget", ""), end)
    };
    let write = async |conditions: &[&Value]| {
        let mut status = counts.clone();
        status["conditions"] = json!(conditions);
        jobs(world).patch_status(BUILD, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await
    };
    // Before 1.31 what comes before the end is of indexed jobs alone.
    let written = match write(&[&before, &end]).await {
        Err(kube::Error::Api(refused)) if refused.reason == "Invalid" => write(&[&end]).await,
        written => written,
    };
    written.expect("the API server takes it");
}

async fn has_job(world: &World) -> bool {
    jobs(world).get_opt(BUILD).await.expect("an answer").is_some_and(|job| job.metadata.deletion_timestamp.is_none())
}

fn image(packages: &[&str]) -> Value {
    let mut image = farm("lab")[0].clone();
    image["spec"]["source"]["debian"]["packages"] = json!(packages);
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_has_ended_is_the_images_newest_version_and_its_job_goes() {
    let world = World::new().await;
    let first = world.operator().await;
    world.apply(&[image(&["linux-image-amd64"])]).await;
    until("its job", async || has_job(&world).await).await;
    world.says("Image", "node", "Built", "a newer one is being built").await;

    let built = publish(&world.settings.state, 2);
    let report = ImageBuildReport { image: Some(built.clone()), percent: 100, ..ImageBuildReport::default() };
    let path = world.settings.state.join("builds").join(format!("{BUILD}.json"));
    std::fs::write(&path, serde_json::to_vec(&report).expect("JSON")).expect("the store's volume");
    // Its job may take a while to end, with nothing more to do.
    until("the newest version", async || {
        world.condition("Image", "node").await.is_some_and(|(_, _, message)| message == built.digest.to_string())
    })
    .await;
    ends(&world, true).await;
    until("its job is gone", async || !has_job(&world).await).await;
    assert!(!path.exists());

    // Nobody builds it again: not this operator, not the next.
    settled(&world, &first).await;
    assert!(!has_job(&world).await);
    first.kill();
    let second = world.operator().await;
    until("the next one leads", async || second.leads()).await;
    settled(&world, &second).await;
    assert!(!has_job(&world).await);

    // Another recipe that cannot be built leaves the version as it is, and says why.
    world.apply(&[image(&["linux-image-amd64", "nothing"])]).await;
    until("another job", async || has_job(&world).await).await;
    ends(&world, false).await;
    world.says("Image", "node", "Built", "no newer one: the build's job failed: it reached the backoff limit").await;
    until("that job is gone", async || !has_job(&world).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_published_only_where_the_administrator_lets_it() {
    let mut world = World::new().await;
    world.settings.registries.allowed = vec!["127.0.0.1:1/{namespace}".to_owned()];
    let operator = world.operator().await;
    let mut wanted = image(&["linux-image-amd64"]);
    for (place, reason, words) in [
        ("127.0.0.1:1/office/node:1", "NotAllowed", "registries.allowed"),
        ("127.0.0.1:1/default/node:1", "PushFailed", "cannot reach http://127.0.0.1:1/v2/default/node"),
    ] {
        wanted["spec"]["publish"] = json!([place]);
        world.apply(&[wanted.clone()]).await;
        until(reason, async || {
            let said = world.condition_of("Image", "node", "Published").await;
            said.is_some_and(|(_, why, message)| why == reason && message.contains(words))
        })
        .await;
    }
    settled(&world, &operator).await;
}
