//! Clusters of Kubernetes for tests, of its real programs.
//!
//! - [`ControlPlane`]: etcd and the API server, and if asked for controller-manager and scheduler. Read it first.
//! - [`Cluster`]: one with nodes, each of which is a [`Node`] on a [`Network`], and has [`Image`]s.
//! - [`Proxy`]: the way out of a cluster.
//! - [`PretendNodes`]: hundreds of nodes that are not there.
//! - [`Kubeconfig`]: who somebody is to the API server, as a file or as text.
//!
//! What is here never touches the host's own clusters, never listens on other addresses than loopback and networks of its own,
//! and ends with the process of the test, however that ends.

mod api;
mod certificates;
mod cluster;
mod control_plane;
mod folder;
mod image;
mod kubeconfig;
mod network;
mod node;
mod node_files;
mod pretend;
mod proxy;
mod server;

pub use api::Api;
pub use cluster::Cluster;
pub use control_plane::{ControlPlane, Options};
pub use image::{GUEST_IMAGE, Image};
pub use kubeconfig::Kubeconfig;
pub use network::Network;
pub use node::Node;
pub use node_files::copy_programs;
pub use pretend::PretendNodes;
pub use proxy::Proxy;
