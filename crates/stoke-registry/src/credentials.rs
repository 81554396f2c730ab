//! Who we are to a registry: from the files that docker, podman and skopeo keep (`containers-auth.json(5)`), or from the
//! programs that such a file names (docker's credential helpers). Never from an argument or the environment.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A user name with its password, or a token that stands for both.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth 2 refresh token.
    Identity(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// Why credentials that are there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The file is something else.
    #[error("{path} is no authentication file as docker and podman write it", path = path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A program that the file names does not help.
    #[error("{program}, which {path} names for {host}, gives no credentials: {why}", path = path.display())]
    Helper {
        /// The program.
        program: String,
        /// The file that names it.
        path: PathBuf,
        /// The registry.
        host: String,
        /// Why not.
        why: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The credentials for a repository: from `named`, else from the first usual file that has some.
pub(crate) fn find(
    named: Option<&Path>,
    host: &str,
    repository: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    if let Some(path) = named {
        return in_file(path, host, repository);
    }
    for path in usual_files() {
        if path.exists()
            && let Some(found) = in_file(&path, host, repository)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn usual_files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HOME");
    let configuration = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
    [
        variable("REGISTRY_AUTH_FILE"),
        variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
        configuration.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn in_file(path: &Path, host: &str, repository: &str) -> Result<Option<Credentials>, CredentialsError> {
    let text = fs_err::read(path)?;
    let file: File =
        serde_json::from_slice(&text).map_err(|source| CredentialsError::NoFile { path: path.to_owned(), source })?;
    let names = names(host, repository);
    if let Some(helper) = names.iter().find_map(|name| file.cred_helpers.get(name)) {
        return ask(path, helper, host);
    }
    if let Some(auth) = names.iter().find_map(|name| file.auths.get(name)) {
        if !auth.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(auth.identitytoken.clone())));
        }
        if let Some(found) = decoded(&auth.auth) {
            return Ok(Some(found));
        }
    }
    file.creds_store.map_or(Ok(None), |store| ask(path, &store, host))
}

/// The names under which a file may have a repository's credentials, the narrowest first.
fn names(host: &str, repository: &str) -> Vec<String> {
    let mut path = format!("{host}/{repository}");
    let mut names = vec![path.clone()];
    while let Some((shorter, _)) = path.rsplit_once('/') {
        path = shorter.to_owned();
        names.push(path.clone());
    }
    names.extend([format!("https://{host}"), format!("https://{host}/v1/"), format!("https://{host}/v2/")]);
    if host == "docker.io" {
        names.push("https://index.docker.io/v1/".to_owned());
    }
    names
}

fn decoded(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Password { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// Asks a credential helper: the host on its standard input, JSON on its output.
fn ask(path: &Path, helper: &str, host: &str) -> Result<Option<Credentials>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let error = |why: String| CredentialsError::Helper {
        program: program.clone(),
        path: path.to_owned(),
        host: host.to_owned(),
        why,
    };
    let mut command = Command::new(&program);
    let child = command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|problem| error(problem.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read says why by its exit.
        let _ = input.write_all(host.as_bytes());
    }
    let output = child.wait_with_output().map_err(|problem| error(problem.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // The words that docker's helpers have for "none".
        let none = said.contains("credentials not found");
        return if none { Ok(None) } else { Err(error(format!("it ended with {}", output.status))) };
    }
    let found: Result<Helped, _> = serde_json::from_slice(&output.stdout);
    let Helped { username: user, secret } = found.map_err(|_| error("it wrote no JSON".to_owned()))?;
    Ok(Some(if user == "<token>" {
        Credentials::Identity(secret)
    } else {
        Credentials::Password { user, password: secret }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, repository: &str) -> Option<Credentials> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), text).unwrap();
        find(Some(file.path()), host, repository).unwrap()
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn the_narrowest_entry_counts() {
        let text = format!(
            r#"{{"auths":{{"h.example":{{"auth":"{}"}},"h.example/farm":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"auth":"{}"}},"t.example":{{"identitytoken":"abc"}}}},"other":1}}"#,
            STANDARD.encode("wide:a:b"),
            STANDARD.encode("narrow:c"),
            STANDARD.encode("hub:d"),
        );
        assert_eq!(found(&text, "h.example", "node"), Some(password("wide", "a:b")));
        assert_eq!(found(&text, "h.example", "farm/node"), Some(password("narrow", "c")));
        assert_eq!(found(&text, "docker.io", "library/node"), Some(password("hub", "d")));
        assert_eq!(found(&text, "t.example", "node"), Some(Credentials::Identity("abc".to_owned())));
        assert_eq!(found(&text, "other.example", "node"), None);
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "user: me").unwrap();
        let error = find(Some(file.path()), "h.example", "node").unwrap_err().to_string();
        assert!(
            error.contains(&file.path().display().to_string()) && error.contains("no authentication file"),
            "{error}"
        );
        assert!(find(Some(Path::new("/no/such")), "h.example", "node").is_err());
    }

    #[test]
    fn a_helper_that_is_missing_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), r#"{"credHelpers":{"h.example":"no-such-helper-here"}}"#).unwrap();
        let error = find(Some(file.path()), "h.example", "node").unwrap_err().to_string();
        assert!(error.contains("docker-credential-no-such-helper-here") && error.contains("h.example"), "{error}");
    }
}
