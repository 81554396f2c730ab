//! Nodes that are not there: pods that the scheduler gives them run at once, as far as the API server knows.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::control_plane::ControlPlane;
use super::folder::Folder;
use super::server::Server;
use crate::tools::{KWOK, go_tool};

/// What says that a node is not there: other nodes are left alone.
const ANNOTATION: &str = "kwok.x-k8s.io/node";
/// What becomes of nodes and pods.
const STAGES: &str = include_str!("pretend.yaml");

/// Pretends nodes until it is dropped. They stay as objects.
pub struct PretendNodes {
    server: Server,
    _folder: Folder,
}

impl PretendNodes {
    /// Makes so many nodes, `pretend0` and so on; returns when they are ready.
    ///
    /// # Errors
    /// If the program cannot be built, or a node does not become ready.
    pub fn start(plane: &ControlPlane, count: u32) -> Result<Self> {
        let folder = Folder::new()?;
        let mut command = Command::new(go_tool(KWOK)?);
        command.arg("--kubeconfig").arg(plane.kubeconfig_file()).arg("--manage-all-nodes=false");
        command.arg(format!("--manage-nodes-with-annotation-selector={ANNOTATION}=fake"));
        // So that the controllers go on to see them.
        command.arg("--node-lease-duration-seconds=40");
        let config = folder.path().join("kwok.yaml");
        fs_err::write(&config, STAGES)?;
        command.arg("--config").arg(config);
        let mut nodes = Self { server: Server::start("kwok", folder.path(), &command)?, _folder: folder };
        (0..count).try_for_each(|number| create(plane, number))?;
        (0..count).try_for_each(|number| nodes.wait_until_ready(plane, number))?;
        Ok(nodes)
    }

    fn wait_until_ready(&mut self, plane: &ControlPlane, number: u32) -> Result<()> {
        let waited = plane.wait_for_node(&name(number), || self.server.check());
        waited.with_context(|| self.server.last_lines())
    }
}

fn name(number: u32) -> String {
    format!("pretend{number}")
}

fn create(plane: &ControlPlane, number: u32) -> Result<()> {
    let resources = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
    let node = json!({
        "metadata": {
            "name": name(number),
            "annotations": {ANNOTATION: "fake"},
            "labels": {"kubernetes.io/hostname": name(number), "type": "kwok"},
        },
        "status": {"allocatable": resources, "capacity": resources},
    });
    plane.api().create("/api/v1/nodes", &node).map(drop)
}
