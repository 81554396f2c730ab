//! Bootstrap tokens: for one boot of one node each.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use stoke_reconcile::JoinWanted;

use super::SYSTEM;
use crate::render::INSTALLATION;

/// Annotation of a token: which node it is for.
const NODE: &str = "stokehold.dev/node-name";
/// Annotation of a token: under which name its farm has it.
const SECRET: &str = "stokehold.dev/join-secret";

/// A bootstrap token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Six characters that everybody may know.
    pub id: String,
    /// Sixteen that nobody may.
    pub(super) secret: String,
    /// Under which name its farm has it.
    pub(super) name: String,
    /// The node that it is for.
    pub node_name: String,
    /// When it was made.
    pub(super) made: Timestamp,
    /// When it ends.
    pub(super) expires: Timestamp,
    /// Whether a boot has it, or may have it: no other gets it.
    pub(super) given: bool,
}

/// Whether a node shall have another token: it boots, was given none in this boot, and has none that is young and that no
/// boot has.
pub fn due<'a>(want: &JoinWanted, tokens: impl IntoIterator<Item = &'a Token>, now: Timestamp) -> bool {
    let name = want.secret.to_string();
    let half = SignedDuration::from_secs(i64::from(want.token_seconds) / 2);
    let fresh = |token: &Token| {
        token.name == name && token.node_name == want.node_name && token.made + half > now && !token.given
    };
    want.boots && want.handed_out.is_empty() && !tokens.into_iter().any(fresh)
}

/// Marks tokens that were there when their farm handed out one.
pub(super) fn note_given(tokens: &mut BTreeMap<String, Token>, wanted: &[JoinWanted]) {
    for want in wanted {
        let Ok(at) = want.handed_out.parse::<Timestamp>() else { continue };
        let name = want.secret.to_string();
        tokens.values_mut().filter(|token| token.name == name && token.made <= at).for_each(|token| token.given = true);
    }
}

/// Whether a token has done what it was made for, or will never do it. `heard` is when the node's kubelet was heard of last, if it
/// is ready. That the node's own system is up says nothing: its kubelet may only be starting.
pub(super) fn is_used(token: &Token, want: Option<&JoinWanted>, heard: Option<Timestamp>, now: Timestamp) -> bool {
    token.expires <= now || heard.is_some_and(|heard| heard > token.made) || want.is_none()
}

pub(super) fn as_secret(token: &Token, installation: &str) -> Secret {
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let data = BTreeMap::from([
        text("token-id", &token.id),
        text("token-secret", &token.secret),
        text("expiration", &token.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        text("usage-bootstrap-authentication", "true"),
        text("auth-extra-groups", "system:bootstrappers:stokehold"),
        text("description", &format!("one boot of {}", token.node_name)),
    ]);
    let metadata = ObjectMeta {
        name: Some(format!("bootstrap-token-{}", token.id)),
        namespace: Some(SYSTEM.to_owned()),
        labels: Some(BTreeMap::from([text(INSTALLATION, installation)])),
        annotations: Some(BTreeMap::from([text(NODE, &token.node_name), text(SECRET, &token.name)])),
        ..ObjectMeta::default()
    };
    let type_ = Some("bootstrap.kubernetes.io/token".to_owned());
    Secret { metadata, type_, string_data: Some(data), ..Secret::default() }
}

/// A token that an operator before this one has made, by its id. Who has it is not known.
pub(super) fn remembered(secret: &Secret) -> Option<(String, Token)> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| String::from_utf8(data.get(name)?.0.clone()).ok();
    let token = Token {
        id: text("token-id")?,
        secret: text("token-secret")?,
        name: secret.annotations().get(SECRET)?.clone(),
        node_name: secret.annotations().get(NODE)?.clone(),
        made: secret.metadata.creation_timestamp.as_ref()?.0,
        expires: text("expiration")?.parse().ok()?,
        given: true,
    };
    Some((token.id.clone(), token))
}

/// What the kubelet begins with, in JSON, which is YAML.
pub(super) fn kubeconfig(want: &JoinWanted, token: &Token, ca: &str) -> String {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": want.server, "certificate-authority-data": ca}}],
        "users": [{"name": "node", "user": {"token": format!("{}.{}", token.id, token.secret)}}],
        "contexts": [{"name": "node", "context": {"cluster": "cluster", "user": "node"}}],
        "current-context": "node",
    })
    .to_string()
}

/// Characters of bootstrap tokens, from the system's own source.
pub(super) fn random(length: usize) -> String {
    const CHARACTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::new();
    while text.len() < length {
        // 122 of its 128 bits are random; those of version and variant are in bytes 6 and 8.
        let bytes = uuid::Uuid::new_v4().into_bytes();
        let bytes = bytes.iter().enumerate().filter(|(index, _)| ![6, 8].contains(index)).map(|(_, byte)| byte);
        text.extend(bytes.filter_map(|byte| CHARACTERS.get(usize::from(byte % 32)).map(|byte| char::from(*byte))));
    }
    text.truncate(length);
    text
}
