//! An interface: a TAP from whoever gives LAN ports, inherited by QEMU.

use std::io::{BufRead as _, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use stoke_api::meta::ObjectRef;
use stoke_api::objects::Kind;
use stoke_api::workload::VmNic;
use stoke_net::ports::{PortReply, PortRequest};

use crate::world::World;

/// Gives TAPs in a network namespace of its own, as the node agent does.
fn give_ports(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        stoke_sys::namespace::unshare_network().unwrap();
        for (index, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request: PortRequest = serde_json::from_str(&line).unwrap();
            assert_eq!(request.label, "machine/test/lab");
            let name = format!("tap{index}");
            send(&stream, &stoke_sys::tap::create(&name).unwrap(), &name);
        }
    });
}

fn send(stream: &std::os::unix::net::UnixStream, device: &OwnedFd, name: &str) {
    let reply = serde_json::to_string(&PortReply { link: name.parse().unwrap(), mtu: 1400 }).unwrap() + "\n";
    let descriptors = [device.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(stream, &[IoSlice::new(reply.as_bytes())], &mut control, SendFlags::empty()).unwrap();
}

fn with_interface() -> World {
    let mut world = World::new();
    let lan = ObjectRef { kind: Kind::Lan, namespace: Some("default".parse().unwrap()), name: "lab".parse().unwrap() };
    world.config.nics = vec![VmNic { name: "lab".to_owned(), lan, mac: "52:54:00:00:00:01".parse().unwrap() }];
    world
}

#[test]
fn a_machine_boots_from_its_interface() {
    let mut world = with_interface();
    give_ports(&world.config.ports_socket);
    world.start();
    let report = world.until_running();
    assert_eq!(report.links, ["tap0".parse().unwrap()]);
    world.view().until_seen("net0: 52:54:00:00:00:01");
    world.kill_owner();
    world.start();
    assert_eq!(world.until_running(), report, "links are kept by whoever adopts");
}

#[test]
fn a_missing_node_agent_is_named() {
    let mut world = with_interface();
    world.start();
    let failure = world.until_report("it fails", |report| report.failure.is_some()).failure.unwrap();
    assert!(failure.contains("is the node agent running?"), "{failure}");
    give_ports(&world.config.ports_socket);
    world.until_running();
}
