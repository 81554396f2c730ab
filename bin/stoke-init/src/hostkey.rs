//! The node's SSH host key: Ed25519, made on the node, in OpenSSH's own file format (`PROTOCOL.key`).
//!
//! `ssh-keygen` would do the same, but it would have to be fetched over the network to run once.

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsBigEndian as _, Curve25519SeedBin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

const KIND: &[u8] = b"ssh-ed25519";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
const END: &str = "-----END OPENSSH PRIVATE KEY-----\n";
const LINE: usize = 70;
/// Of the cipher `none`.
const BLOCK: usize = 8;

/// A key pair as the two files that sshd wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostKey {
    /// PEM-like text, for a file that only root may read.
    pub(crate) private: String,
    /// `TYPE BASE64`.
    pub(crate) public: String,
}

/// Makes a new one.
pub(crate) fn generate(comment: &str) -> Result<HostKey> {
    let pair = Ed25519KeyPair::generate().ok().context("could not make an SSH host key")?;
    let seed = pair.seed().ok().context("could not read the SSH host key")?;
    let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().ok().context("could not read the SSH host key")?;
    Ok(encode(seed.as_ref(), pair.public_key().as_ref(), comment))
}

/// One that was made in an earlier boot; none if this is no key that [`generate`] has made.
pub(crate) fn restore(private: &str) -> Option<HostKey> {
    let body = private.strip_prefix(BEGIN)?.strip_suffix(END)?;
    let file = from_base64(&body.replace('\n', ""))?;
    let rest = file.strip_prefix(MAGIC)?;
    // Cipher, key derivation and its options; one key; its public half.
    let rest = (0..3).try_fold(rest, |rest, _| take_string(rest).map(|(_, rest)| rest))?;
    let (public, _) = take_string(rest.strip_prefix(&1_u32.to_be_bytes())?)?;
    public
        .starts_with(&string(KIND))
        .then(|| HostKey { private: private.to_owned(), public: format!("ssh-ed25519 {}", base64(public)) })
}

fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn encode(seed: &[u8], public: &[u8], comment: &str) -> HostKey {
    let public_blob = [string(KIND), string(public)].concat();
    // Two equal check numbers, public and private key, comment, padding 1, 2, 3 …
    let pair = [seed, public].concat();
    let mut secret = [vec![0; 8], string(KIND), string(public), string(&pair), string(comment.as_bytes())].concat();
    secret.extend((1..).take(secret.len().next_multiple_of(BLOCK) - secret.len()));
    let file = [
        MAGIC,
        &string(b"none"),
        &string(b"none"),
        &string(b""),
        &1_u32.to_be_bytes(),
        &string(&public_blob),
        &string(&secret),
    ];
    let text = base64(&file.concat());
    let lines: String = text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    HostKey { private: format!("{BEGIN}{lines}{END}"), public: format!("ssh-ed25519 {}", base64(&public_blob)) }
}

/// RFC 4251, section 5.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::new();
    for chunk in digits.as_bytes().chunks(4) {
        let value = |digit: &u8| ALPHABET.iter().position(|letter| letter == digit);
        let number = chunk.iter().try_fold(0_usize, |number, digit| Some(number << 6 | value(digit)?))?;
        let number = u32::try_from(number << (6 * (4 - chunk.len()))).ok()?;
        bytes.extend(number.to_be_bytes().iter().skip(1).take(chunk.len().checked_sub(1)?));
    }
    Some(bytes)
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    let encode = |chunk: &[u8]| {
        let number = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        (0..4)
            .map(move |digit| {
                let six_bits = number >> (18 - 6 * digit) & 0x3f;
                if digit <= chunk.len() { ALPHABET.get(six_bits).copied().map_or('=', char::from) } else { '=' }
            })
            .collect::<Vec<_>>()
    };
    bytes.chunks(3).flat_map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    #[test]
    fn base64_of_rfc_4648() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
            assert_eq!(from_base64(encoded).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn openssh_reads_the_private_key_and_finds_the_same_public_one() {
        let key = generate("node-1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, &key.private).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output().expect("ssh-keygen is missing");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), format!("{} node-1", key.public));
    }

    #[test]
    fn a_key_of_an_earlier_boot_is_the_same_and_anything_else_is_none() {
        let key = generate("node-1").unwrap();
        assert_eq!(restore(&key.private), Some(key.clone()));
        for wrong in ["", &key.public, &key.private[..100], &key.private.replace("b3Blb", "*3Blb")] {
            assert_eq!(restore(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_node_has_its_own() {
        assert_ne!(generate("").unwrap().public, generate("").unwrap().public);
    }
}
