//! Keys that sign image versions, and the verification of what they signed.
//!
//! - [`PublicKey`]: verifies. What a farm lists in `spec.imageKeys`.
//! - [`SigningKey`]: signs. It belongs to the people who release images, and to no server.
//!
//! Both are in files as other tools have them (PEM: PKCS #8, RFC 5958; `SubjectPublicKeyInfo`, RFC 5280 section 4.1.2.7), so
//! that openssl and cosign can make, use and verify them. Curve P-256 with SHA-256, which cosign makes, or Ed25519.
//!
//! What this crate never does: know what an image is, talk to a network, or hold a private key longer than its owner asks.
//! Read [`SigningKey`] first.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    ParsedPublicKey, VerificationAlgorithm,
};
use fs_err as fs;
use pem::{EncodeConfig, LineEnding, Pem};
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;

const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";
/// What `openssl ecparam -genkey` writes: RFC 5915.
const PRIVATE_EC: &str = "EC PRIVATE KEY";

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file. The message names it.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is no key of a kind that is known here.
    #[error("this is no {wanted} in PEM; P-256 and Ed25519 are known here")]
    Unknown {
        /// What was wanted.
        wanted: &'static str,
    },
    /// The key is protected by a password.
    #[error(
        "the key is encrypted; write it without its password: openssl pkcs8 -in KEY -out PLAIN (cosign's own keys cannot \
         be read: make one here, and give its public half to cosign)"
    )]
    Encrypted,
    /// Others than its owner may read a private key.
    #[error("{path} can be read by others; take that away: chmod 600 {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// A key is there already.
    #[error("{path} is there already; choose another name", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The cryptographic library refused.
    #[error("the key cannot be made or used")]
    Refused,
}

/// A key that verifies.
#[derive(Debug)]
pub struct PublicKey {
    key: ParsedPublicKey,
    der: Vec<u8>,
}

impl PublicKey {
    /// Reads a key as openssl and cosign write it: `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// If it is none, or of a kind that is not known here.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown { wanted: "public key" };
        let pem = pem::parse(text).ok().filter(|pem| pem.tag() == PUBLIC).ok_or_else(unknown)?;
        let algorithms: [&'static dyn VerificationAlgorithm; 2] = [&ECDSA_P256_SHA256_ASN1, &ED25519];
        let parsed = algorithms.into_iter().find_map(|known| ParsedPublicKey::new(known, pem.contents()).ok());
        Self::of(parsed.ok_or_else(unknown)?)
    }

    fn of(key: ParsedPublicKey) -> Result<Self, KeyError> {
        let der = key.as_der().map_err(|_| KeyError::Refused)?.as_ref().to_vec();
        Ok(Self { key, der })
    }

    /// SHA-256 of the key (`SubjectPublicKeyInfo` in DER): its name among keys.
    pub fn fingerprint(&self) -> Digest {
        Digest(Sha256::digest(&self.der).into())
    }

    /// Whether this key's private half signed the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }

    /// The key as text.
    pub fn to_pem(&self) -> String {
        encode(PUBLIC, &self.der)
    }
}

/// A key that signs.
pub struct SigningKey {
    key: Pair,
    public: PublicKey,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public.fingerprint()).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a key on curve P-256, and writes both halves: `PATH` for its owner alone, `PATH.pub` for everybody.
    ///
    /// # Errors
    /// If a key is there already, or the files cannot be written.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Refused)?;
        let private = pair.to_pkcs8v1().map_err(|_| KeyError::Refused)?;
        let key = Self::of(Pair::P256(pair))?;
        write_new(path, 0o600, &encode(PRIVATE, private.as_ref()))?;
        write_new(&public_path(path), 0o644, &key.public.to_pem())?;
        Ok(key)
    }

    /// Reads a private key from a file that nobody but its owner can read.
    ///
    /// # Errors
    /// If it cannot be read, if others can read it, or if it is no key that is known here.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned() });
        }
        Self::parse(&fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown { wanted: "private key" };
        let pem = pem::parse(text).map_err(|_| unknown())?;
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = match pem.tag() {
            PRIVATE => {
                let p256 = EcdsaKeyPair::from_pkcs8(algorithm, pem.contents()).ok().map(Pair::P256);
                p256.or_else(|| Ed25519KeyPair::from_pkcs8(pem.contents()).ok().map(Pair::Ed25519))
            }
            PRIVATE_EC => EcdsaKeyPair::from_private_key_der(algorithm, pem.contents()).ok().map(Pair::P256),
            tag if tag.contains("ENCRYPTED") => return Err(KeyError::Encrypted),
            _ => None,
        };
        Self::of(pair.ok_or_else(unknown)?)
    }

    fn of(key: Pair) -> Result<Self, KeyError> {
        let parsed = match &key {
            Pair::P256(pair) => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref()),
            Pair::Ed25519(pair) => ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()),
        };
        let public = PublicKey::of(parsed.map_err(|_| KeyError::Refused)?)?;
        Ok(Self { key, public })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = match &self.key {
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Refused)?,
            Pair::Ed25519(pair) => pair.sign(message),
        };
        Ok(signature.as_ref().to_vec())
    }
}

/// Where the public half of a private key's file is.
pub fn public_path(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn encode(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let mut options = fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.options_mut(), mode);
    let opened = options.write(true).create_new(true).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => error.into(),
    })?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    /// Runs openssl, which must be installed for these tests.
    fn openssl(folder: &Path, arguments: &str) -> bool {
        let words = arguments.split(' ');
        let mut command = Command::new("openssl");
        command.args(words).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    #[test]
    fn what_a_key_signs_its_public_half_verifies_and_no_other() {
        let folder = TempDir::new().unwrap();
        let key = SigningKey::create(&folder.path().join("one")).unwrap();
        let again = SigningKey::read(&folder.path().join("one")).unwrap();
        let other = SigningKey::create(&folder.path().join("two")).unwrap();
        let text = fs::read_to_string(folder.path().join("one.pub")).unwrap();
        let public = PublicKey::parse(&text).unwrap();
        assert_eq!(public.fingerprint(), again.public().fingerprint());
        let signature = again.sign(b"message").unwrap();
        assert!(public.verifies(b"message", &signature) && key.public().verifies(b"message", &signature));
        assert!(!public.verifies(b"massage", &signature));
        assert!(!public.verifies(b"message", signature.get(1..).unwrap()));
        assert!(!other.public().verifies(b"message", &signature));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn openssl_verifies_what_we_sign() {
        let folder = TempDir::new().unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        fs::write(folder.path().join("message"), b"message").unwrap();
        fs::write(folder.path().join("signature"), key.sign(b"message").unwrap()).unwrap();
        let verify = "dgst -sha256 -verify key.pub -signature signature message";
        assert!(openssl(folder.path(), verify));
        fs::write(folder.path().join("message"), b"massage").unwrap();
        assert!(!openssl(folder.path(), verify));
    }

    #[test]
    fn keys_of_openssl_are_ours_too() {
        let folder = TempDir::new().unwrap();
        let make = [
            "genpkey -algorithm ed25519 -out ed25519",
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out pkcs8",
            "ecparam -name prime256v1 -genkey -noout -out sec1",
        ];
        for line in make {
            assert!(openssl(folder.path(), line), "{line}");
        }
        for name in ["ed25519", "pkcs8", "sec1"] {
            let path = folder.path().join(name);
            fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(openssl(folder.path(), &format!("pkey -in {name} -pubout -out {name}.pub")));
            let key = SigningKey::read(&path).unwrap();
            let public = PublicKey::parse(&fs::read_to_string(public_path(&path)).unwrap()).unwrap();
            assert!(public.verifies(b"message", &key.sign(b"message").unwrap()), "{name}");
            assert_eq!(public.fingerprint(), key.public().fingerprint(), "{name}");
        }
    }

    #[test]
    fn files_that_are_wrong_say_what_to_do() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("key");
        SigningKey::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(SigningKey::create(&path).unwrap_err().to_string().contains("is there already"));
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(SigningKey::read(&path).unwrap_err().to_string().contains("chmod 600"));
        assert!(openssl(folder.path(), "genpkey -algorithm RSA -aes256 -pass pass:x -out locked"));
        fs::set_permissions(folder.path().join("locked"), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(SigningKey::read(&folder.path().join("locked")).unwrap_err().to_string().contains("openssl pkcs8"));
        let text = fs::read_to_string(public_path(&path)).unwrap();
        assert!(SigningKey::parse(&text).is_err());
        assert!(PublicKey::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").is_err());
        assert!(PublicKey::parse("ssh-ed25519 AAAA").is_err());
    }
}
