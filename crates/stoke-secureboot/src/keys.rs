//! A set of keys in a folder: for each of PK, KEK and db a private key and its certificate.
//!
//! ```text
//! FOLDER/PK.key  KEK.key  db.key     private keys in PEM, for their owner alone
//! FOLDER/PK.crt  KEK.crt  db.crt     certificates in PEM
//! ```
//!
//! A set is there whole or not at all: it is made in another folder, which is then renamed.

use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use jiff::civil::DateTime;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize, SigningKey as _};
use sha2::{Digest as _, Sha256};

use crate::variables::{self, Variable};

/// Why keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The folder has keys already.
    #[error("there are keys at {0} already")]
    Exists(PathBuf),
    /// A file cannot be read or written; the error names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// Cryptography refused.
    #[error("the key cannot be used")]
    Crypto(#[from] rcgen::Error),
    /// Not a certificate.
    #[error("the certificate cannot be read")]
    Certificate,
}

/// A private key with its certificate.
#[derive(Debug)]
pub struct Signer {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Signer {
    /// Makes a key (RSA, 2048 bit: all firmware knows it) and its certificate, which no authority has signed.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let mut parameters = CertificateParams::default();
        // Firmware compares no dates; what looks at the certificate later should not stumble over them either.
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let mut distinguished = DistinguishedName::new();
        distinguished.push(DnType::CommonName, name);
        parameters.distinguished_name = distinguished;
        let certificate = parameters.self_signed(&key)?.der().to_vec();
        Ok(Self { key, certificate })
    }

    fn read(folder: &Path, variable: Variable) -> Result<Self, KeyError> {
        let key = fs::read_to_string(key_file(folder, variable))?;
        let key = KeyPair::from_pem_and_sign_algo(&key, &PKCS_RSA_SHA256)?;
        Ok(Self { key, certificate: certificate(folder, variable)? })
    }

    fn write(&self, folder: &Path, variable: Variable) -> Result<(), KeyError> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        fs::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(key_file(folder, variable))?;
        file.write_all(self.key.serialize_pem().as_bytes())?;
        file.sync_all()?;
        Ok(fs::write(certificate_file(folder, variable), pem(&self.certificate))?)
    }

    /// The certificate in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// A signature (PKCS #1 v1.5 with SHA-256) of what the message hashes to.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.key.sign(message)?)
    }
}

fn key_file(folder: &Path, variable: Variable) -> PathBuf {
    folder.join(format!("{}.key", variable.name()))
}

fn certificate_file(folder: &Path, variable: Variable) -> PathBuf {
    folder.join(format!("{}.crt", variable.name()))
}

/// A certificate as text: its DER in base 64, 64 characters a line (RFC 7468).
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit =
        |index: u32| usize::try_from(index & 63).ok().and_then(|index| DIGITS.get(index)).copied().unwrap_or(b'=');
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let padded = [group.first(), group.get(1), group.get(2)].map(|byte| u32::from(byte.copied().unwrap_or(0)));
            let bits = padded.iter().fold(0, |bits, byte| bits << 8 | byte);
            let digits = [18, 12, 6, 0].map(|shift| char::from(digit(bits >> shift)));
            let kept = group.len() + 1;
            text.extend(digits.iter().enumerate().map(|(index, digit)| if index < kept { *digit } else { '=' }));
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// Reads what [`pem`] wrote.
fn from_pem(text: &str) -> Option<Vec<u8>> {
    let body: String = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0_u32);
    for character in body.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(digit), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn certificate(folder: &Path, variable: Variable) -> Result<Vec<u8>, KeyError> {
    from_pem(&fs::read_to_string(certificate_file(folder, variable))?).ok_or(KeyError::Certificate)
}

/// The keys of one owner of machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    folder: PathBuf,
}

/// A file that firmware or its tools take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its name: `db.auth`.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

impl KeySet {
    /// The set in a folder; `None` if there is none.
    pub fn find(folder: &Path) -> Option<Self> {
        key_file(folder, Variable::Db).exists().then(|| Self { folder: folder.to_owned() })
    }

    /// Makes a set in a folder that is not there. `owner` is in the certificates' names.
    ///
    /// # Errors
    /// If there are keys, or the folder cannot be written.
    pub fn create(folder: &Path, owner: &str) -> Result<Self, KeyError> {
        if folder.exists() {
            return Err(KeyError::Exists(folder.to_owned()));
        }
        let parent = folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let staged = folder.with_extension(format!("new{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&staged)?;
        for variable in Variable::ALL {
            let name = format!("{owner} {}", variable.name());
            // A key that could not be written must not stay half behind.
            let made = Signer::generate(&name).and_then(|signer| signer.write(&staged, variable));
            if let Err(error) = made {
                let _ = fs::remove_dir_all(&staged);
                return Err(error);
            }
        }
        fs::rename(&staged, folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The key that signs boot programs.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn signer(&self) -> Result<Signer, KeyError> {
        Signer::read(&self.folder, Variable::Db)
    }

    /// A certificate in DER.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn certificate(&self, variable: Variable) -> Result<Vec<u8>, KeyError> {
        certificate(&self.folder, variable)
    }

    /// SHA-256 of a certificate in hexadecimal: how firmware's set-up and other tools show it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn fingerprint(&self, variable: Variable) -> Result<String, KeyError> {
        let digest = Sha256::digest(self.certificate(variable)?);
        Ok(stoke_api::Digest(digest.into()).hex())
    }

    /// What firmware is to keep: the signature list of each variable.
    ///
    /// # Errors
    /// If a certificate cannot be read.
    pub fn lists(&self) -> Result<Vec<(Variable, Vec<u8>)>, KeyError> {
        let list = |variable| Ok((variable, variables::signature_list(&self.certificate(variable)?)));
        Variable::ALL.into_iter().map(list).collect()
    }

    /// The files that bring the keys into a machine: for each variable a certificate in DER (`.cer`), a signature list
    /// (`.esl`) and a signed update (`.auth`). None holds a private key.
    ///
    /// # Errors
    /// If a key cannot be read.
    pub fn export(&self, at: DateTime) -> Result<Vec<Exported>, KeyError> {
        let mut files = Vec::new();
        for (variable, list) in self.lists()? {
            // The platform key signs for itself and for the KEK, the KEK for the database.
            let above = if variable == Variable::Db { Variable::Kek } else { Variable::Pk };
            let update = variables::update(variable, &list, &Signer::read(&self.folder, above)?, at)?;
            let contents = [("cer", self.certificate(variable)?), ("esl", list), ("auth", update)];
            files.extend(
                contents.map(|(kind, content)| Exported { name: format!("{}.{kind}", variable.name()), content }),
            );
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn certificates_come_back_from_text(bytes in proptest::collection::vec(0_u8.., 1..200)) {
            assert_eq!(from_pem(&pem(&bytes)).unwrap(), bytes);
        }
    }
}
