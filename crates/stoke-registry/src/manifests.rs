//! Manifests and what refers to them (OCI distribution specification, "Pulling manifests", "Pushing Manifests", "Listing
//! Referrers").

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;

use crate::client::{Registry, RegistryError};

/// Bound of a manifest: what the specification tells registries to accept at least.
const LARGEST: u64 = 4 << 20;
/// Kinds of manifests that are understood here.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Pages of a list of referrers that are followed.
const PAGES: usize = 32;

/// A manifest as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its media type.
    pub media_type: String,
    /// Its digest, computed here.
    pub digest: Digest,
    /// Its text.
    pub content: Vec<u8>,
}

/// A manifest that refers to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Media type of the manifest.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Vec<Referrer>,
}

impl Registry {
    /// The manifest of a tag or a digest; `None` if there is none.
    ///
    /// # Errors
    /// If the registry does not give it, or gives another one than the digest says.
    pub fn manifest(&self, wanted: &str) -> Result<Option<Fetched>, RegistryError> {
        let url = self.url(&format!("manifests/{wanted}"));
        let answer = self.ask(&url, false, &mut |authorization| {
            let request = self.agent.get(&url).header("accept", ACCEPT);
            match authorization {
                Some(value) => request.header("authorization", value).call(),
                None => request.call(),
            }
        })?;
        let mut answer = match self.good(&url, answer) {
            Err(RegistryError::NotFound(_)) => return Ok(None),
            other => other?,
        };
        let media_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let content = answer.body_mut().with_config().limit(LARGEST).read_to_vec();
        let content = content.map_err(|source| RegistryError::unreachable(&url, source))?;
        let digest = Digest(Sha256::digest(&content).into());
        match wanted.parse::<Digest>() {
            Ok(asked) if asked != digest => Err(RegistryError::Tampered { url, digest: asked }),
            _ => Ok(Some(Fetched { media_type, digest, content })),
        }
    }

    /// Puts a manifest under a tag or its digest. Whether the registry keeps a list of what refers to its subject.
    ///
    /// # Errors
    /// If the registry does not take it.
    pub fn put_manifest(&self, wanted: &str, media_type: &str, content: &[u8]) -> Result<bool, RegistryError> {
        let url = self.url(&format!("manifests/{wanted}"));
        let answer = self.ask(&url, true, &mut |authorization| {
            let request = self.agent.put(&url).header("content-type", media_type);
            match authorization {
                Some(value) => request.header("authorization", value).send(content),
                None => request.send(content),
            }
        })?;
        let answer = self.good(&url, answer)?;
        Ok(answer.headers().contains_key("oci-subject"))
    }

    /// What refers to a manifest: by the registry's list, or by the tag that stands for it where it keeps none.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        let mut found = Vec::new();
        let mut next = Some(self.url(&format!("referrers/{subject}")));
        for _ in 0..PAGES {
            let Some(url) = next.take() else { break };
            let answer = self.ask(&url, false, &mut |authorization| {
                let request = self.agent.get(&url).header("accept", INDEX);
                match authorization {
                    Some(value) => request.header("authorization", value).call(),
                    None => request.call(),
                }
            })?;
            let mut answer = match self.good(&url, answer) {
                // A registry of before OCI 1.1.
                Err(RegistryError::NotFound(_) | RegistryError::Status { .. }) => {
                    return self.tagged_referrers(subject);
                }
                other => other?,
            };
            let link = answer.headers().get("link").and_then(|value| value.to_str().ok()).and_then(next_page);
            let text = answer.body_mut().with_config().limit(LARGEST).read_to_vec();
            let text = text.map_err(|source| RegistryError::unreachable(&url, source))?;
            let index: Index = serde_json::from_slice(&text)
                .map_err(|error| RegistryError::Strange { url: url.clone(), why: error.to_string() })?;
            found.extend(index.manifests);
            next = link.map(|link| self.resolve(&link));
        }
        Ok(found)
    }

    fn tagged_referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        let Some(index) = self.manifest(&referrers_tag(subject))? else { return Ok(Vec::new()) };
        Ok(serde_json::from_slice::<Index>(&index.content).map(|index| index.manifests).unwrap_or_default())
    }

    /// Puts a manifest that refers to another one, and notes it under the tag for referrers if the registry keeps no list
    /// ("Pushing Manifests with Subject").
    ///
    /// # Errors
    /// If the registry does not take it.
    pub fn put_referrer(&self, subject: &Digest, referrer: &Referrer, content: &[u8]) -> Result<(), RegistryError> {
        if self.put_manifest(&referrer.digest.to_string(), &referrer.media_type, content)? {
            return Ok(());
        }
        let mut manifests = self.tagged_referrers(subject)?;
        if manifests.iter().any(|known| known.digest == referrer.digest) {
            return Ok(());
        }
        manifests.push(referrer.clone());
        let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests };
        let text = serde_json::to_vec(&index).unwrap_or_default();
        self.put_manifest(&referrers_tag(subject), INDEX, &text).map(drop)
    }
}

fn referrers_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The next page in a `Link` header (RFC 8288).
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn pages_of_a_list() {
        assert_eq!(next_page(r#"</v2/a/referrers/x?n=2>; rel="next""#), Some("/v2/a/referrers/x?n=2".to_owned()));
        assert_eq!(next_page(r#"</v2/a>; rel="first""#), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
