//! Names of images in registries: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]` (OCI distribution specification, "Pulling
//! manifests"; the short forms are those of docker and podman).

use std::fmt;
use std::str::FromStr;

use crate::names::Digest;

/// The registry that is meant if none is named.
const DOCKER_HUB: &str = "docker.io";

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host and port of the registry, as it was written.
    pub host: String,
    /// Repository in it: `farm/node`.
    pub repository: String,
    /// The tag, if one was written.
    pub tag: Option<String>,
    /// The digest, if one was written.
    pub digest: Option<Digest>,
}

/// Text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no image in a registry: {why}; write HOST/REPOSITORY:TAG, for example registry.example.org/farm/node:1"
)]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// What the registry is asked for: the digest, else the tag, else `latest`.
    pub fn wanted(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone().unwrap_or_else(|| "latest".to_owned()), |digest| digest.to_string())
    }

    /// Host and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// Whether the registry is on this host: only there plain HTTP is spoken.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.strip_prefix('[').and_then(|rest| rest.split(']').next());
        let host = host.unwrap_or_else(|| self.host.split(':').next().unwrap_or_default());
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The host that is asked: docker.io is but a name.
    pub fn endpoint(&self) -> &str {
        if self.host == DOCKER_HUB { "registry-1.docker.io" } else { &self.host }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = |why| ReferenceError { text: text.to_owned(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| error("the digest is none of SHA-256"))?)),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            // A colon before the last slash belongs to the port.
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (host, repository) = match path.split_once('/') {
            Some((host, repository)) if host.contains(['.', ':']) || host == "localhost" => {
                (host, repository.to_owned())
            }
            Some(_) => (DOCKER_HUB, path.to_owned()),
            None => (DOCKER_HUB, format!("library/{path}")),
        };
        if !tag.as_deref().is_none_or(is_tag) {
            return Err(error("the tag is none"));
        }
        if !host.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
            || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
        {
            return Err(error("the host is none"));
        }
        if !repository.split('/').all(is_component) {
            return Err(error("a repository is of small letters, digits, and . _ - between them"));
        }
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

fn is_tag(tag: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let other = |byte: u8| first(byte) || b".-".contains(&byte);
    tag.len() <= 128 && tag.bytes().next().is_some_and(first) && tag.bytes().all(other)
}

fn is_component(part: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    edge(part.bytes().next()) && edge(part.bytes().next_back()) && part.bytes().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, String) {
        let reference: Reference = text.parse().unwrap();
        (reference.host.clone(), reference.repository.clone(), reference.wanted())
    }

    #[test]
    fn forms_that_people_write() {
        let digest = Digest([1; 32]);
        let cases = [
            ("registry.example.org/farm/node:1", ("registry.example.org", "farm/node", "1".to_owned())),
            ("localhost:5000/node", ("localhost:5000", "node", "latest".to_owned())),
            ("[::1]:5000/node:a", ("[::1]:5000", "node", "a".to_owned())),
            ("node", ("docker.io", "library/node", "latest".to_owned())),
            ("farm/node:2", ("docker.io", "farm/node", "2".to_owned())),
            (&format!("h.example/a:1@{digest}"), ("h.example", "a", digest.to_string())),
        ];
        for (text, (host, repository, wanted)) in cases {
            assert_eq!(parsed(text), (host.to_owned(), repository.to_owned(), wanted), "{text}");
        }
        assert_eq!("h.example/a:1".parse::<Reference>().unwrap().to_string(), "h.example/a:1");
    }

    #[test]
    fn what_is_no_reference() {
        for text in [
            "",
            "h.example/",
            "h.example/A",
            "h.example/a:",
            "h.example/a@sha256:1",
            "h.example/../a",
            "h.example/a b",
            ":5000/a",
            "h/é:1",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_this_host_is_this_host() {
        let is = |text: &str| text.parse::<Reference>().unwrap().is_loopback();
        assert!(is("localhost:5000/a") && is("127.0.0.1:5000/a") && is("127.1.2.3:80/a") && is("[::1]:5000/a"));
        assert!(!is("10.0.0.1:5000/a") && !is("registry.example.org/a") && !is("127.0.0.1.example.org/a"));
        assert!(!is("localhost.example.org/a"));
    }
}
