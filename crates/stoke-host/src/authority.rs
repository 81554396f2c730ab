//! The authority that a farm's nodes trust: its certificate is in the farm's own initramfs, outside of any image.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose, SanType, date_time_ymd};
use stoke_api::workload::FarmConfig;

use crate::files::{write_atomically, write_json};
use crate::paths::Folders;

/// The authority of an installation.
pub struct Authority {
    key: KeyPair,
    certificate: String,
}

impl Authority {
    /// Reads the authority, or makes it the first time.
    ///
    /// # Errors
    /// If its files cannot be read or written.
    pub fn open(folders: &Folders) -> anyhow::Result<Self> {
        let (certificate, key) = (folders.keys().join("ca.pem"), folders.keys().join("ca.key"));
        if certificate.exists() {
            let pem = fs_err::read_to_string(&key)?;
            let key = KeyPair::from_pem(&pem).with_context(|| format!("{} is no key", key.display()))?;
            return Ok(Self { key, certificate: fs_err::read_to_string(certificate)? });
        }
        let pair = KeyPair::generate()?;
        let signed = authority_parameters().self_signed(&pair)?;
        // The certificate last: while it is not there, nobody trusts the key, and both are made anew.
        write_atomically(&key, pair.serialize_pem().as_bytes())?;
        write_atomically(&certificate, signed.pem().as_bytes())?;
        Ok(Self { key: pair, certificate: signed.pem() })
    }

    /// The certificate that nodes trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes the certificate of a farm for the address that it serves on, unless it is there.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn ensure_farm_certificate(&self, farm: &FarmConfig) -> anyhow::Result<()> {
        let made_for = MadeFor { address: farm.address, authority: self.certificate.clone() };
        let marker = marker(farm);
        let found = std::fs::read(&marker).ok().and_then(|text| serde_json::from_slice::<MadeFor>(&text).ok());
        if found.as_ref() == Some(&made_for) && farm.certificate.exists() && farm.key.exists() {
            return Ok(());
        }
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority_parameters(), &self.key);
        let certificate = farm_parameters(farm.address).signed_by(&key, &issuer)?;
        write_atomically(&farm.key, key.serialize_pem().as_bytes())?;
        write_atomically(&farm.certificate, certificate.pem().as_bytes())?;
        Ok(write_json(&marker, &made_for)?)
    }
}

/// What a farm's certificate was made for.
#[derive(PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct MadeFor {
    address: Ipv4Addr,
    authority: String,
}

fn marker(farm: &FarmConfig) -> PathBuf {
    farm.certificate.with_extension("json")
}

/// A node's clock may be far off until the farm has told it the time over this very connection: so certificates are
/// valid long before and long after.
fn dated(mut parameters: CertificateParams) -> CertificateParams {
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(2100, 1, 1);
    parameters
}

fn named(parameters: &mut CertificateParams, name: &str) {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    parameters.distinguished_name = distinguished;
}

/// The same each time: an issuer made of them and of the key is the one whose certificate nodes have.
fn authority_parameters() -> CertificateParams {
    let mut parameters = dated(CertificateParams::default());
    named(&mut parameters, "Stokehold farm authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn farm_parameters(address: Ipv4Addr) -> CertificateParams {
    let mut parameters = dated(CertificateParams::default());
    named(&mut parameters, "Stokehold farm");
    parameters.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(address))];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}
