//! The key that enters the installation's nodes: Ed25519, in OpenSSH's own file format (`PROTOCOL.key`).
//!
//! `ssh-keygen` would do the same, but it is not everywhere where an installation is kept.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ED25519};

use crate::files::write_atomically;
use crate::paths::Folders;

const KIND: &[u8] = b"ssh-ed25519";
const LINE: usize = 70;
/// Of the cipher `none`.
const BLOCK: usize = 8;
/// Where the seed of an Ed25519 key is in PKCS #8 (RFC 8410, section 7): all before it is the same for all of them.
const SEED: std::ops::Range<usize> = 16..48;

/// The public half; the pair is made the first time.
///
/// # Errors
/// If the folder cannot be written.
pub fn ssh_public_key(folders: &Folders) -> anyhow::Result<String> {
    let (key, public) = (folders.ssh_key(), folders.ssh_key().with_extension("pub"));
    if !public.exists() {
        fs_err::create_dir_all(folders.keys())?;
        let pair = generate("stokehold")?;
        // The public half last: a pair that was not finished is made anew.
        write_atomically(&key, pair.private.as_bytes())?;
        write_atomically(&public, format!("{}\n", pair.public).as_bytes())?;
    }
    Ok(fs_err::read_to_string(public)?.trim().to_owned())
}

struct Pair {
    private: String,
    public: String,
}

fn generate(comment: &str) -> anyhow::Result<Pair> {
    let pair = KeyPair::generate_for(&PKCS_ED25519).context("cannot make an SSH key")?;
    let der = pair.serialize_der();
    let seed = der.get(SEED).context("an Ed25519 key without a seed")?;
    Ok(encode(seed, pair.public_key_raw(), comment))
}

fn encode(seed: &[u8], public: &[u8], comment: &str) -> Pair {
    let blob = [string(KIND), string(public)].concat();
    // Two equal check numbers, public and private key, comment, padding 1, 2, 3 …
    let both = [seed, public].concat();
    let mut secret = [vec![0; 8], string(KIND), string(public), string(&both), string(comment.as_bytes())].concat();
    secret.extend((1..).take(secret.len().next_multiple_of(BLOCK) - secret.len()));
    let none = || string(b"none");
    let (one, blob_string, secret) = (1_u32.to_be_bytes().to_vec(), string(&blob), string(&secret));
    let file = [b"openssh-key-v1\0".to_vec(), none(), none(), string(b""), one, blob_string, secret].concat();
    let text = STANDARD.encode(file);
    let lines: String = text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    let private = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}-----END OPENSSH PRIVATE KEY-----\n");
    Pair { private, public: format!("ssh-ed25519 {} {comment}", STANDARD.encode(blob)) }
}

/// RFC 4251, section 5.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn openssh_reads_the_private_key_and_finds_the_same_public_one() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { state: folder.path().to_owned(), run: folder.path().join("run") };
        let public = ssh_public_key(&folders).unwrap();
        let mode = std::fs::metadata(folders.ssh_key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        let shown = Command::new("ssh-keygen").arg("-y").arg("-f").arg(folders.ssh_key()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), public, "{shown:?}");
        assert_eq!(ssh_public_key(&folders).unwrap(), public);
    }
}
