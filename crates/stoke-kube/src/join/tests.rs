//! Tests of what is decided about tokens and requests.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use stoke_api::objects::join_secret;
use stoke_api::{Kind, ObjectRef};

use super::requests::{KUBELET_CLIENT, KUBELET_SERVING};
use super::*;

const NOW: i64 = 1_700_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn want(name: &str) -> JoinWanted {
    let node = ObjectRef { kind: Kind::Server, namespace: None, name: name.parse().unwrap() };
    JoinWanted {
        farm: ObjectRef { kind: Kind::Farm, namespace: "default".parse().ok(), name: "lab".parse().unwrap() },
        node_name: name.to_owned(),
        boots: true,
        handed_out: String::new(),
        addresses: vec!["10.10.0.27".parse().unwrap()],
        labels: BTreeMap::new(),
        taints: Vec::new(),
        token_seconds: 900,
        secret: join_secret(&node),
        server: "https://10.0.0.1:6443".to_owned(),
        cluster: None,
        node,
    }
}

fn token(node: &str) -> Token {
    let (id, secret) = ("abcdef".to_owned(), "0123456789abcdef".to_owned());
    let (name, node_name) = (format!("stokehold-join/server.{node}"), node.to_owned());
    Token { id, secret, name, node_name, made: at(0), expires: at(900), given: false }
}

/// A request for `system:node:NAME` by whoever, with these names beside.
fn request(user: &str, group: &str, name: &str, organization: &str, names: Vec<SanType>) -> CertificateSigningRequest {
    let mut parameters = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organization);
    subject.push(DnType::CommonName, format!("system:node:{name}"));
    let serves = !names.is_empty();
    (parameters.distinguished_name, parameters.subject_alt_names) = (subject, names);
    let text = parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let purpose = if serves { "server auth" } else { "client auth" };
    CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(text.into_bytes()),
            signer_name: if serves { KUBELET_SERVING } else { KUBELET_CLIENT }.to_owned(),
            username: Some(user.to_owned()),
            groups: Some(vec![group.to_owned(), "system:authenticated".to_owned()]),
            usages: Some(vec!["digital signature".to_owned(), purpose.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    }
}

fn approved(request: &CertificateSigningRequest) -> bool {
    let tokens = BTreeMap::from([("abcdef".to_owned(), token("rack1-07"))]);
    verdict(request, &tokens, &[want("rack1-07"), want("rack1-08")], at(10)).is_some()
}

const BOOTSTRAP: (&str, &str) = ("system:bootstrap:abcdef", "system:bootstrappers");

#[test]
fn a_node_gets_a_certificate_for_its_own_name_with_the_token_of_its_boot() {
    let (user, group) = BOOTSTRAP;
    assert!(approved(&request(user, group, "rack1-07", "system:nodes", Vec::new())));
}

#[test]
fn a_token_is_for_one_name_and_for_nothing_else() {
    let (user, group) = BOOTSTRAP;
    let refused = |request: CertificateSigningRequest| assert!(!approved(&request), "{request:?}");
    refused(request(user, group, "rack1-08", "system:nodes", Vec::new()));
    refused(request(user, group, "stranger", "system:nodes", Vec::new()));
    refused(request(user, group, "rack1-07", "system:masters", Vec::new()));
    refused(request("system:bootstrap:other1", group, "rack1-07", "system:nodes", Vec::new()));
    refused(request(user, "system:nodes", "rack1-07", "system:nodes", Vec::new()));
    let with_name = vec![SanType::DnsName("rack1-07".try_into().unwrap())];
    refused(request(user, group, "rack1-07", "system:nodes", with_name.clone()));
    let mut client = request(user, group, "rack1-07", "system:nodes", with_name);
    client.spec.signer_name = KUBELET_CLIENT.to_owned();
    client.spec.usages = Some(vec!["client auth".to_owned()]);
    refused(client);
    let mut usages = request(user, group, "rack1-07", "system:nodes", Vec::new());
    usages.spec.usages = Some(vec!["client auth".to_owned(), "server auth".to_owned()]);
    refused(usages);
    let mut other = request(user, group, "rack1-07", "system:nodes", Vec::new());
    other.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
    refused(other);
}

#[test]
fn a_token_that_has_ended_approves_nothing() {
    let (user, group) = BOOTSTRAP;
    let request = request(user, group, "rack1-07", "system:nodes", Vec::new());
    let tokens = BTreeMap::from([("abcdef".to_owned(), token("rack1-07"))]);
    assert!(verdict(&request, &tokens, &[want("rack1-07")], at(901)).is_none());
}

#[test]
fn a_node_serves_under_its_own_name_and_addresses_only() {
    let node = ("system:node:rack1-07", "system:nodes");
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let address = |text: &str| SanType::IpAddress(text.parse().unwrap());
    let serves = |names: Vec<SanType>| approved(&request(node.0, node.1, "rack1-07", "system:nodes", names));
    assert!(serves(vec![dns("rack1-07"), address("10.10.0.27")]));
    assert!(!serves(vec![dns("rack1-07"), address("10.10.0.1")]));
    assert!(!serves(vec![dns("kubernetes.default")]));
    let of_other = request("system:node:rack1-08", node.1, "rack1-07", "system:nodes", vec![dns("rack1-07")]);
    assert!(!approved(&of_other));
}

#[test]
fn each_boot_has_a_token_of_its_own() {
    let want = want("rack1-07");
    let young = token("rack1-07");
    assert!(due(&want, [], at(0)));
    assert!(due(&want, [&token("rack1-08")], at(0)));
    assert!(!due(&want, [&young], at(10)));
    assert!(due(&want, [&young], at(500)), "an old one may end while the node boots");
    assert!(!due(&JoinWanted { boots: false, ..want.clone() }, [], at(0)));
    // The boot has one: it gets no other, and the next boot does not get the same.
    let handed_out = JoinWanted { handed_out: at(5).to_string(), ..want.clone() };
    let mut tokens = BTreeMap::from([(young.id.clone(), young)]);
    note_given(&mut tokens, std::slice::from_ref(&handed_out));
    assert!(!due(&handed_out, tokens.values(), at(10)));
    assert!(due(&want, tokens.values(), at(10)));
}

#[test]
fn a_node_joins_with_the_token_that_it_was_given_although_there_is_a_newer_one() {
    let newer = Token { id: "newer1".to_owned(), made: at(450), expires: at(1350), ..token("rack1-07") };
    let tokens = [token("rack1-07"), newer].map(|token| (token.id.clone(), token));
    let (user, group) = BOOTSTRAP;
    let request = request(user, group, "rack1-07", "system:nodes", Vec::new());
    assert!(verdict(&request, &BTreeMap::from(tokens), &[want("rack1-07")], at(460)).is_some());
}

#[test]
fn a_token_stays_until_the_kubelet_has_joined_although_the_node_is_up() {
    let (mut want, token) = (want("rack1-07"), token("rack1-07"));
    want.boots = false;
    assert!(!is_used(&token, Some(&want), None, at(10)));
    assert!(!is_used(&token, Some(&want), Some(at(-10)), at(10)), "that was before this boot");
    assert!(is_used(&token, Some(&want), Some(at(9)), at(10)));
    assert!(is_used(&token, Some(&want), None, at(900)));
    assert!(is_used(&token, None, None, at(10)), "the node was taken out");
}

#[test]
fn what_is_made_is_a_token_and_is_found_again() {
    let token = token("rack1-07");
    let mut secret = as_secret(&token, "0a1b2c3d");
    let data = secret.string_data.take().unwrap();
    assert!(random(16).len() == 16 && random(6).chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    secret.data = Some(data.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))).collect());
    secret.metadata.creation_timestamp = Some(Time(at(0)));
    // Whether a boot has it is not known: no other gets it.
    assert_eq!(remembered(&secret), Some((token.id.clone(), Token { given: true, ..token })));
}
