//! Which requests for certificates are a node's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use stoke_reconcile::JoinWanted;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509CertificationRequest};

use super::Token;

pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Why a request for a certificate is approved; `None` leaves it to others.
///
/// A node gets a certificate with the token that was made for its boot, for its own name and for nothing else; later it gets
/// others for that name with the one that it has, also for what it serves, under its name and its addresses.
pub fn verdict(
    request: &CertificateSigningRequest,
    tokens: &BTreeMap<String, Token>,
    wanted: &[JoinWanted],
    now: Timestamp,
) -> Option<&'static str> {
    let decided =
        request.status.as_ref().and_then(|status| status.conditions.as_ref()).is_some_and(|all| !all.is_empty());
    let spec = &request.spec;
    let user = spec.username.as_deref()?;
    let asked = Asked::parse(&spec.request.0).filter(|_| !decided)?;
    let node = asked.common_name.strip_prefix("system:node:")?;
    let want = wanted.iter().find(|want| want.node_name == node)?;
    let in_group = |group: &str| spec.groups.as_ref().is_some_and(|groups| groups.iter().any(|one| one == group));
    let usages: BTreeSet<_> = spec.usages.iter().flatten().map(String::as_str).collect();
    let only = |purpose: &str| {
        let allowed = [purpose, "digital signature", "key encipherment"];
        usages.contains(purpose) && usages.iter().all(|usage| allowed.contains(usage))
    };
    if asked.organizations != ["system:nodes"] {
        return None;
    }
    let is_node = user == asked.common_name && in_group("system:nodes");
    match spec.signer_name.as_str() {
        KUBELET_CLIENT if asked.has_names() || !only("client auth") => None,
        KUBELET_CLIENT if is_node => Some("a node renews its certificate"),
        KUBELET_CLIENT => {
            let id = user.strip_prefix("system:bootstrap:").filter(|_| in_group("system:bootstrappers"))?;
            let token = tokens.get(id)?;
            let ours = token.node_name == node && token.expires > now;
            ours.then_some("it came with the token that was made for this boot of the node")
        }
        KUBELET_SERVING if is_node && asked.has_names() && only("server auth") => {
            let names = asked.dns.iter().all(|name| name == node);
            let addresses = asked.addresses.iter().all(|address| want.addresses.contains(address));
            (names && addresses && !asked.others).then_some("a node serves under its name and its addresses")
        }
        _ => None,
    }
}

/// What a request (PKCS #10, RFC 2986) asks for.
#[derive(Debug, Default)]
struct Asked {
    common_name: String,
    organizations: Vec<String>,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Whether it asks for names of other kinds.
    others: bool,
}

impl Asked {
    fn parse(request: &[u8]) -> Option<Self> {
        let der = pem::parse(request).ok()?.into_contents();
        let (rest, request) = X509CertificationRequest::from_der(&der).ok()?;
        let subject = &request.certification_request_info.subject;
        let names: Vec<_> =
            subject.iter_common_name().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
        let [common_name] = names.as_slice() else { return None };
        let organizations = subject.iter_organization().map(|name| name.as_str().unwrap_or_default().to_owned());
        let mut asked = Self {
            common_name: common_name.clone(),
            organizations: organizations.collect(),
            others: !rest.is_empty() || subject.iter_attributes().count() != 2,
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => asked.dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => match ip(bytes) {
                        Some(address) => asked.addresses.push(address),
                        None => asked.others = true,
                    },
                    _ => asked.others = true,
                }
            }
        }
        Some(asked)
    }

    fn has_names(&self) -> bool {
        self.others || !self.dns.is_empty() || !self.addresses.is_empty()
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
