//! What a cluster says to us: pods to their node agent, the kubelet, nodes that want to join, and the operator.

use std::collections::BTreeMap;
use std::io;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use prost::Message;
use stoke_api::agent::{AgentConfig, AgentReport};
use stoke_api::report::Report;
use stoke_api::{Kind, ObjectRef};
use stoke_kube::join::verdict;
use stoke_net::observed::Observed;
use stoke_net::plan;
use stoke_net::ports::{Ask, Incoming};
use stoke_net::wanted::{Lan, Wanted};
use stoke_node::cluster::cgroup;
use stoke_reconcile::JoinWanted;

use crate::node::round;

/// Generated: only its messages are of interest here.
#[allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
#[path = "../../../crates/stoke-node/src/cluster/plugin/v1beta1.rs"]
mod v1beta1;

/// A pod's request for LAN ports, whole and in pieces: it means the same, and too much of it is refused.
pub fn ports(input: &[u8]) {
    let whole = Incoming::default().take(input);
    let mut incoming = Incoming::default();
    let mut pieces = input.chunks(7).map(|piece| incoming.take(piece));
    let answer = pieces.find(|answer| !matches!(answer, Ok(None))).unwrap_or(Ok(None));
    match (&whole, &answer) {
        (Ok(whole), Ok(answer)) => assert_eq!(whole, answer),
        (Err(whole), Err(answer)) => assert_eq!(whole.kind(), answer.kind()),
        // What comes after the line, in the same piece, is nobody's.
        _ => assert_eq!(whole.is_ok(), answer.is_ok(), "{whole:?} and {answer:?}"),
    }
    if let Ok(Some(ask)) = whole {
        let text = serde_json::to_vec(&ask).map(|text| [text.as_slice(), b"\n"].concat());
        let again: Option<Ask> = text.ok().and_then(|text| Incoming::default().take(&text).ok().flatten());
        // Written down it may be longer than it came, never something else.
        assert!(again.is_none_or(|again| again == ask));
    } else if let Err(error) = whole {
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

/// What a role in a pod says of itself, and what an agent makes of it.
pub fn report(input: &[u8]) {
    round::<Report>(input);
    round::<AgentReport>(input);
}

/// `/proc/PID/cgroup`: a pod's uid has the form of one, whatever is in there, and does not depend on other lines.
pub fn cgroup_lines(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Some(pod) = cgroup::pod(&text) else { return };
    assert!(pod.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{pod}");
    assert!([32, 36].contains(&pod.len()), "{pod}");
    for line in text.lines() {
        assert!(cgroup::pod(line).is_none_or(|of_line| of_line == pod), "{line}");
    }
}

/// The kubelet's messages, and ours as it would read them.
pub fn device_plugin(input: &[u8]) {
    message::<v1beta1::AllocateRequest>(input);
    message::<v1beta1::AllocateResponse>(input);
    message::<v1beta1::ListAndWatchResponse>(input);
    message::<v1beta1::RegisterRequest>(input);
    message::<v1beta1::PreferredAllocationRequest>(input);
    message::<v1beta1::PreStartContainerRequest>(input);
}

fn message<T: Message + Default + PartialEq + std::fmt::Debug>(input: &[u8]) {
    let Ok(message) = T::decode(input) else { return };
    assert_eq!(T::decode(message.encode_to_vec().as_slice()).ok().as_ref(), Some(&message));
}

/// What the operator says a node should have: what is understood is planned, or refused with a reason.
pub fn agent_config(input: &[u8]) {
    round::<AgentConfig>(input);
    let Ok(config) = serde_json::from_slice::<AgentConfig>(input) else { return };
    let Ok(installation) = config.installation.parse() else { return };
    let Ok(way_out) = "out".parse() else { return };
    let lans: Vec<_> = config.lans.iter().map(|lan| Lan::on_node(lan, "node")).collect();
    let observed = Observed { ipv6: true, ..Observed::default() };
    for lan in &lans {
        if let Err(error) = plan::lan(&installation, lan, &observed) {
            assert!(!error.to_string().is_empty());
        }
    }
    let _ = plan::namespace(&Wanted { installation, lans, way_out }, &observed);
}

/// A request for a certificate, by a node or by who has no token: whatever is approved is for that node's name. The first byte
/// says who asks for what.
pub fn certificate(input: &[u8]) {
    let Some((first, request)) = input.split_first() else { return };
    let bootstrap = ("system:bootstrap:abcdef", "system:bootstrappers");
    let node = ("system:node:rack1-07", "system:nodes");
    let (user, group) = if first & 1 == 0 { bootstrap } else { node };
    let serving = first & 2 == 2;
    let (signer, purpose) = if serving {
        ("kubernetes.io/kubelet-serving", "server auth")
    } else {
        ("kubernetes.io/kube-apiserver-client-kubelet", "client auth")
    };
    let spec = CertificateSigningRequestSpec {
        request: ByteString(request.to_vec()),
        signer_name: signer.to_owned(),
        username: Some(user.to_owned()),
        groups: Some(vec![group.to_owned()]),
        usages: Some(vec!["digital signature".to_owned(), purpose.to_owned()]),
        ..CertificateSigningRequestSpec::default()
    };
    let request_of_node = CertificateSigningRequest { spec, ..CertificateSigningRequest::default() };
    let (Some(want), Some(other)) = (want("rack1-07"), want("rack1-08")) else { return };
    let now = Timestamp::UNIX_EPOCH;
    // Nobody has a token: of who is no node yet, nothing is approved.
    let tokens = BTreeMap::new();
    let approved = verdict(&request_of_node, &tokens, &[want, other.clone()], now).is_some();
    assert!(!approved || first & 1 == 1, "it came with no token");
    assert!(verdict(&request_of_node, &tokens, &[other], now).is_none(), "that node did not ask");
}

fn want(name: &str) -> Option<JoinWanted> {
    let node = ObjectRef { kind: Kind::Server, namespace: None, name: name.parse().ok()? };
    Some(JoinWanted {
        farm: ObjectRef { kind: Kind::Farm, namespace: "default".parse().ok(), name: "lab".parse().ok()? },
        node_name: name.to_owned(),
        boots: true,
        handed_out: String::new(),
        addresses: vec![[10, 10, 0, 27].into()],
        labels: BTreeMap::new(),
        taints: Vec::new(),
        token_seconds: 900,
        secret: stoke_api::objects::join_secret(&node),
        server: "https://10.0.0.1:6443".to_owned(),
        cluster: None,
        node,
    })
}
