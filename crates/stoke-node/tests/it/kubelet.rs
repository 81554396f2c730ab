//! The device plugin and what stands for a kubelet: its registration service, and a client of plugins.

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
#[path = "../../src/cluster/plugin/v1beta1.rs"]
mod v1beta1;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use v1beta1::device_plugin_client::DevicePluginClient;
use v1beta1::registration_server::{Registration, RegistrationServer};
use v1beta1::{AllocateRequest, ContainerAllocateRequest, Empty, RegisterRequest};

use super::host::on_a_host;
use super::node::Node;

struct Registrations(mpsc::UnboundedSender<RegisterRequest>);

#[tonic::async_trait]
impl Registration for Registrations {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(Empty {}))
    }
}

/// A kubelet that starts: it empties its folder and listens.
struct Kubelet {
    folder: PathBuf,
    registered: mpsc::UnboundedReceiver<RegisterRequest>,
    server: tokio::task::JoinHandle<()>,
}

impl Kubelet {
    fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let listener = UnixListener::bind(folder.join("kubelet.sock")).unwrap();
        let incoming = futures::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let (sender, registered) = mpsc::unbounded_channel();
        let service = RegistrationServer::new(Registrations(sender));
        let server = async { Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap() };
        Self { folder: folder.to_owned(), registered, server: tokio::spawn(server) }
    }

    /// The plugin of a resource, once it has registered.
    async fn plugin(&mut self, resource: &str) -> DevicePluginClient<Channel> {
        loop {
            let request = timeout(Duration::from_secs(20), self.registered.recv()).await.unwrap().unwrap();
            assert_eq!(request.version, "v1beta1");
            if request.resource_name == resource {
                return DevicePluginClient::new(connect(self.folder.join(request.endpoint)).await);
            }
        }
    }
}

async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://plugin").connect_with_connector(connector).await.unwrap()
}

#[test]
fn a_kubelet_is_offered_lans_and_offered_again_when_it_starts_again() {
    on_a_host(|| {
        let node = Node::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..2 {
                let mut kubelet = Kubelet::start(&node.path("plugins"));
                let mut plugin = kubelet.plugin("stokehold.dev/lan").await;
                let mut list = plugin.list_and_watch(Empty {}).await.unwrap().into_inner();
                let first = timeout(Duration::from_secs(5), list.next()).await.unwrap().unwrap().unwrap();
                assert!(first.devices.len() > 100 && first.devices.iter().all(|device| device.health == "Healthy"));
                let asked = AllocateRequest {
                    container_requests: vec![ContainerAllocateRequest { devices_ids: vec!["7".to_owned()] }],
                };
                let mut folders = Vec::new();
                for _ in 0..2 {
                    let given = plugin.allocate(asked.clone()).await.unwrap().into_inner().container_responses;
                    let [container] = given.as_slice() else { panic!("{given:?}") };
                    let [mount] = container.mounts.as_slice() else { panic!("{container:?}") };
                    assert_eq!((mount.container_path.as_str(), mount.read_only), ("/run/stokehold", false));
                    let folder = PathBuf::from(&mount.host_path);
                    assert!(UnixStream::connect(folder.join("ports.sock")).await.is_ok(), "at once");
                    folders.push(folder);
                }
                assert_ne!(folders[0], folders[1], "each has its own");
                kubelet.server.abort();
            }
        });
    });
}

#[test]
fn whoever_asks_for_a_device_gets_that_one_and_no_folder() {
    on_a_host(|| {
        let node = Node::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut kubelet = Kubelet::start(&node.path("plugins"));
            let mut plugin = kubelet.plugin("stokehold.dev/tun").await;
            let asked = AllocateRequest {
                container_requests: vec![ContainerAllocateRequest { devices_ids: vec!["7".to_owned()] }],
            };
            let given = plugin.allocate(asked).await.unwrap().into_inner().container_responses;
            let [container] = given.as_slice() else { panic!("{given:?}") };
            let [device] = container.devices.as_slice() else { panic!("{container:?}") };
            assert_eq!((device.host_path.as_str(), device.permissions.as_str()), ("/dev/net/tun", "rw"));
            assert!(container.mounts.is_empty(), "{container:?}");
        });
    });
}

/// What a pod that is not root's has to be in is on the device itself.
#[test]
fn the_agent_says_which_group_may_open_a_device() {
    use std::os::unix::fs::MetadataExt as _;
    on_a_host(|| {
        let node = Node::start();
        super::host::until("the devices were looked at", || node.report().tun.usable);
        let tun = std::fs::metadata("/dev/net/tun").unwrap();
        let group = tun.mode() & 0o006 != 0o006 && tun.mode() & 0o060 == 0o060 && tun.gid() != 0;
        assert_eq!(node.report().tun.group, group.then_some(tun.gid()));
        let report = node.report();
        assert_eq!(report.overlay_mtu, Some(1450), "a frame of a lan in one packet of the host's link");
        assert_eq!(report.vhost_net.usable, Path::new("/dev/vhost-net").exists(), "{report:?}");
        assert!(!report.vhost_net.message.is_empty(), "{report:?}");
    });
}
