//! The device plugin: what pods ask the scheduler for, and the kubelet asks us for (gRPC, `v1beta1`).
//!
//! ```text
//!  us                                     kubelet
//!   | Register(resource, our socket) ------> |   kubelet.sock; again whenever it is another one
//!   | <---------------- ListAndWatch         |   devices, and again when they change
//!   | <---------------- Allocate             |   -> a folder of its own for each container, or a device
//! ```
//!
//! A resource whose device cannot be used is not offered. A kubelet that starts removes all sockets from its folder and
//! makes its own anew: both are seen within a second.

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
mod v1beta1;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use hyper_util::rt::TokioIo;
use stoke_api::agent::{
    KVM_RESOURCE, LAN_RESOURCE, POD_FOLDER, TUN_RESOURCE, VHOST_NET_RESOURCE, VHOST_VSOCK_RESOURCE,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use v1beta1::registration_client::RegistrationClient;
use v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DevicePluginOptions, DeviceSpec, Empty,
    ListAndWatchResponse, Mount, PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse, RegisterRequest,
};

use crate::cluster::agent::Agent;
use crate::cluster::devices::Found;
use crate::cluster::{kvm, pods};

/// The kubelet's own socket in its folder.
pub(super) const KUBELET: &str = "kubelet.sock";
/// The version of the protocol.
const VERSION: &str = "v1beta1";
/// How often is looked whether the kubelet is another one.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many pods of each resource a node may have: more than a kubelet runs.
const DEVICES: usize = 1024;

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Lan,
    Kvm,
    Tun,
    VhostNet,
    VhostVsock,
}

impl Resource {
    const ALL: [Self; 5] = [Self::Lan, Self::Kvm, Self::Tun, Self::VhostNet, Self::VhostVsock];

    fn name(self) -> &'static str {
        match self {
            Self::Lan => LAN_RESOURCE,
            Self::Kvm => KVM_RESOURCE,
            Self::Tun => TUN_RESOURCE,
            Self::VhostNet => VHOST_NET_RESOURCE,
            Self::VhostVsock => VHOST_VSOCK_RESOURCE,
        }
    }

    /// Our socket's name in the kubelet's folder.
    fn socket(self) -> &'static str {
        match self {
            Self::Lan => "stokehold-lan.sock",
            Self::Kvm => "stokehold-kvm.sock",
            Self::Tun => "stokehold-tun.sock",
            Self::VhostNet => "stokehold-vhost-net.sock",
            Self::VhostVsock => "stokehold-vhost-vsock.sock",
        }
    }

    /// The device that a container gets. With a LAN it gets none: ports come as open descriptors.
    fn path(self) -> Option<&'static str> {
        match self {
            Self::Lan => None,
            Self::Kvm => Some(kvm::KVM),
            Self::Tun => Some(kvm::TUN),
            Self::VhostNet => Some(kvm::VHOST_NET),
            Self::VhostVsock => Some(kvm::VHOST_VSOCK),
        }
    }

    fn is_usable(self, found: &Found) -> bool {
        match self {
            Self::Lan | Self::Tun => found.tun.usable,
            Self::Kvm => found.kvm.usable,
            Self::VhostNet => found.vhost_net.usable,
            Self::VhostVsock => found.vhost_vsock.usable,
        }
    }

    fn devices(self, found: &Found) -> Vec<Device> {
        let count = if self.is_usable(found) { DEVICES } else { 0 };
        let device = |number| Device { id: format!("{number}"), health: "Healthy".to_owned(), topology: None };
        (0..count).map(device).collect()
    }
}

/// Offers all resources to the kubelet whose folder this is, in the background.
pub(super) fn offer(folder: &Path, agent: &Arc<Agent>, shutdown: &CancellationToken) {
    for resource in Resource::ALL {
        let plugin = Plugin { resource, agent: Arc::clone(agent) };
        let (folder, shutdown) = (folder.to_owned(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = keep(&folder, plugin) => {}
                () = shutdown.cancelled() => {}
            }
            let _ = std::fs::remove_file(folder.join(resource.socket()));
        });
    }
}

async fn keep(folder: &Path, plugin: Plugin) {
    let mut complaint = String::new();
    let mut devices = plugin.agent.devices.subscribe();
    loop {
        if devices.wait_for(|found| plugin.resource.is_usable(found)).await.is_err() {
            return;
        }
        match offer_once(folder, &plugin).await {
            Ok(()) => complaint.clear(),
            Err(error) => {
                let text = format!("{error:#}");
                if text != complaint {
                    tracing::warn!(resource = plugin.resource.name(), "cannot offer a resource: {text}");
                    complaint = text;
                }
                sleep(INTERVAL).await;
            }
        }
    }
}

/// Offers the resource until there is another kubelet.
async fn offer_once(folder: &Path, plugin: &Plugin) -> anyhow::Result<()> {
    let kubelet = folder.join(KUBELET);
    let known = identity(&kubelet).with_context(|| format!("no kubelet is at {}", kubelet.display()))?;
    let own = folder.join(plugin.resource.socket());
    let _ = std::fs::remove_file(&own);
    let listener = UnixListener::bind(&own).with_context(|| format!("cannot bind {}", own.display()))?;
    let ours = identity(&own)?;
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let server = Server::builder().add_service(DevicePluginServer::new(plugin.clone()));
    let server = server.serve_with_incoming_shutdown(incoming(listener), stop.cancelled_owned());
    let task = tokio::spawn(server);
    register(kubelet.clone(), plugin.resource).await.context("the kubelet did not take it")?;
    tracing::info!(resource = plugin.resource.name(), "offered to the kubelet");
    while identity(&kubelet).is_ok_and(|now| now == known) && identity(&own).is_ok_and(|now| now == ours) {
        anyhow::ensure!(!task.is_finished(), "the server of the device plugin has ended");
        sleep(INTERVAL).await;
    }
    Ok(())
}

/// Inodes are given again: the time of the change tells two sockets of one number apart.
fn identity(socket: &Path) -> io::Result<(u64, u64, i64, i64)> {
    let found = std::fs::symlink_metadata(socket)?;
    Ok((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

async fn register(kubelet: PathBuf, resource: Resource) -> anyhow::Result<()> {
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let kubelet = kubelet.clone();
        async move { UnixStream::connect(kubelet).await.map(TokioIo::new) }
    });
    // The address is only for the form: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://kubelet").timeout(Duration::from_secs(10));
    let channel = endpoint.connect_with_connector(connect).await?;
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: resource.socket().to_owned(),
        resource_name: resource.name().to_owned(),
        options: Some(DevicePluginOptions::default()),
    };
    RegistrationClient::new(channel).register(request).await?;
    Ok(())
}

/// The service of one resource.
#[derive(Clone)]
struct Plugin {
    resource: Resource,
    agent: Arc<Agent>,
}

impl Plugin {
    fn allocate_one(&self) -> anyhow::Result<ContainerAllocateResponse> {
        if let Some(path) = self.resource.path() {
            return Ok(with_device(path));
        }
        let name = pods::allocate(&self.agent)?;
        let folder = self.agent.pods().join(name);
        let host_path = folder.to_str().context("the folder's name is no text")?.to_owned();
        let mount = Mount { container_path: POD_FOLDER.to_owned(), host_path, read_only: false };
        Ok(ContainerAllocateResponse { mounts: vec![mount], ..ContainerAllocateResponse::default() })
    }
}

fn with_device(path: &str) -> ContainerAllocateResponse {
    let device =
        DeviceSpec { container_path: path.to_owned(), host_path: path.to_owned(), permissions: "rw".to_owned() };
    ContainerAllocateResponse { devices: vec![device], ..ContainerAllocateResponse::default() }
}

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let mut devices = self.agent.devices.subscribe();
        devices.mark_changed();
        let resource = self.resource;
        let list = futures::stream::unfold(devices, move |mut devices| async move {
            devices.changed().await.ok()?;
            let response = ListAndWatchResponse { devices: resource.devices(&devices.borrow_and_update()) };
            Some((Ok(response), devices))
        });
        Ok(Response::new(Box::pin(list)))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("all devices are alike"))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let containers = request.into_inner().container_requests;
        let allocated: anyhow::Result<Vec<_>> = containers.iter().map(|_| self.allocate_one()).collect();
        match allocated {
            Ok(container_responses) => Ok(Response::new(AllocateResponse { container_responses })),
            Err(error) => Err(Status::internal(format!("{error:#}"))),
        }
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse::default()))
    }
}
