//! A control plane for all tests of this program, with our kinds; each test has a namespace of its own.

use std::time::{Duration, Instant};

use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use stoke_api::Kind;
use stoke_kube::object;
use testbed::kubernetes::{ControlPlane, Options};
use tokio::sync::OnceCell;

/// How long anything may take that has to happen, beside builds of servers and other tests on two processors.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The shared control plane with a client of it for this test's runtime.
pub(crate) async fn shared() -> (&'static ControlPlane, Client) {
    static KINDS: OnceCell<usize> = OnceCell::const_new();
    let plane = tokio::task::spawn_blocking(ControlPlane::shared).await.expect("it ends");
    let plane = plane.expect("a control plane starts");
    let client = client(&plane.kubeconfig().text()).await;
    KINDS
        .get_or_init(|| async { stoke_kube::crd::install(&client, "tests").await.expect("all kinds are served") })
        .await;
    (plane, client)
}

/// A control plane of its own for a test that disturbs it.
pub(crate) async fn own() -> (ControlPlane, Client) {
    own_with(Options::default()).await
}

/// The same, with other servers.
pub(crate) async fn own_with(options: Options) -> (ControlPlane, Client) {
    let started = tokio::task::spawn_blocking(|| ControlPlane::start(options));
    let plane = started.await.expect("it ends").expect("a control plane starts");
    let client = client(&plane.kubeconfig().text()).await;
    stoke_kube::crd::install(&client, "tests").await.expect("all kinds are served");
    // What is served may still be starting: an operator tries again, and a test does not.
    for kind in Kind::ALL {
        let one = ListParams::default().limit(1);
        until("all kinds to be listed", async || object::all(&client, kind).list(&one).await.is_ok()).await;
    }
    (plane, client)
}

/// A client by a kubeconfig.
pub(crate) async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("it is whole");
    // As the operator's own, which does what is to be done again by itself.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Waits for something to become so, and says how long it took.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < LIMIT, "{what}: not within {} s", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}
