//! What a registry wants to see: challenges, and the tokens that answer them.
//!
//! A registry that refuses says how it wants to be asked (`WWW-Authenticate`, RFC 9110 section 11.6.1): `Basic`, or
//! `Bearer` with the address where a token can be had (distribution's `docs/content/spec/auth/token.md` and `oauth.md`).

use std::collections::BTreeMap;

use serde::Deserialize;
use ureq::Agent;

use crate::client::RegistryError;
use crate::credentials::Credentials;

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: Option<String> },
}

impl Challenge {
    /// The first challenge in a header's value that is known here.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        Some(Self::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service").unwrap_or_default(),
            scope: parameters.remove("scope"),
        })
    }
}

/// `name="value",name=value`: values may hold commas if they are quoted.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, character)) = characters.next() {
                    match character {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                        other => value.push(other),
                    }
                }
                (value, quoted.get(end..).unwrap_or_default())
            }
            None => after.split_once(',').map_or((after.trim().to_owned(), ""), |(v, n)| (v.trim().to_owned(), n)),
        };
        found.insert(name.trim().to_ascii_lowercase(), value);
        rest = next.trim_start_matches([',', ' ']);
    }
    found
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// A token for the scope, from the address that the registry named.
pub(crate) fn token(
    agent: &Agent,
    realm: &str,
    service: &str,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Result<String, RegistryError> {
    let transport = |source: ureq::Error| RegistryError::unreachable(realm, source);
    let answer = match credentials {
        Some(Credentials::Identity(refresh)) => {
            let form = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", "stokehold"),
                ("scope", scope),
                ("refresh_token", refresh),
            ];
            agent.post(realm).send_form(form)
        }
        other => {
            let request = agent.get(realm).query("service", service).query("scope", scope);
            match other {
                Some(Credentials::Password { user, password }) => {
                    request.header("authorization", basic(user, password)).call()
                }
                _ => request.call(),
            }
        }
    };
    let mut answer = answer.map_err(transport)?;
    if matches!(answer.status().as_u16(), 400 | 401 | 403) {
        return Err(RegistryError::unauthorized(realm, credentials.is_some()));
    }
    if !answer.status().is_success() {
        return Err(RegistryError::status(realm, answer.status().as_u16(), ""));
    }
    let Token { token, access_token } = answer.body_mut().read_json().map_err(transport)?;
    Ok(if token.is_empty() { access_token } else { token })
}

/// The value of `Authorization` for a name and a password (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_registries() {
        let bearer =
            r#"Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a/b:pull,push""#;
        let wanted = Challenge::Bearer {
            realm: "https://auth.example.org/token".to_owned(),
            service: "registry".to_owned(),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(Challenge::parse(bearer), Some(wanted));
        assert_eq!(Challenge::parse(r#"Basic realm="a registry""#), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Some(Challenge::Basic));
        let short = Challenge::Bearer { realm: "r\"x".to_owned(), service: "s".to_owned(), scope: None };
        assert_eq!(Challenge::parse(r#"bearer service=s, realm="r\"x""#), Some(short));
        assert_eq!(Challenge::parse("Bearer service=\"s\""), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(
            Challenge::parse("Bearer realm=\"unclosed"),
            Some(Challenge::Bearer { realm: "unclosed".to_owned(), service: String::new(), scope: None })
        );
    }
}
