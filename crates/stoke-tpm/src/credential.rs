//! What only a TPM can open that has both keys (part 1, section 24; elliptic curves: section C.6).

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;

use crate::key::{COORDINATE, Point, Template};
use crate::sha256;
use crate::wire::Writer;

/// A credential: the two byte strings that `TPM2_ActivateCredential` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `TPMS_ID_OBJECT`: the secret, encrypted for the name of one key.
    pub blob: Vec<u8>,
    /// `TPMS_ECC_POINT`: from which the TPM makes the key to it.
    pub seed: Vec<u8>,
}

/// A credential could not be made: the endorsement key is no point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endorsement key is no point of the curve P-256")]
pub struct NoKey;

/// Wraps a secret so that the TPM with this endorsement key gives it out if it has this attestation key, too.
///
/// # Errors
/// If the endorsement key is none.
pub fn wrap(endorsement: &Point, attestation: &Point, secret: &[u8]) -> Result<Credential, NoKey> {
    let ephemeral = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(|_| NoKey)?;
    let public = ephemeral.compute_public_key().map_err(|_| NoKey)?;
    let (_, coordinates) = public.as_ref().split_at_checked(1).ok_or(NoKey)?;
    let (x, y) = coordinates.split_at_checked(COORDINATE).ok_or(NoKey)?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, endorsement.uncompressed());
    let seed = agree_ephemeral(ephemeral, peer, NoKey, |shared| Ok(kdfe(shared, "IDENTITY", x, &endorsement.x)))?;
    let name = Template::Attestation.name(attestation);
    let mut identity = Writer::default().sized(secret).done();
    encrypt(&kdfa(&seed, "STORAGE", &name, 128), &mut identity)?;
    let integrity = hmac(&kdfa(&seed, "INTEGRITY", &[], 256), &[&identity, &name]);
    Ok(Credential {
        blob: Writer::default().sized(integrity.as_ref()).raw(&identity).done(),
        seed: Writer::default().sized(x).sized(y).done(),
    })
}

/// AES-128 in CFB with a vector of zeroes: the key is used once.
fn encrypt(key: &[u8], text: &mut [u8]) -> Result<(), NoKey> {
    let key = key.get(..16).ok_or(NoKey)?;
    let key = UnboundCipherKey::new(&AES_128, key).and_then(EncryptingKey::cfb128).map_err(|_| NoKey)?;
    let context = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    key.less_safe_encrypt(text, context).map(drop).map_err(|_| NoKey)
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// The key derivation of section 11.4.10.2, for at most 256 bits.
fn kdfa(key: &[u8], label: &str, context: &[u8], bits: u32) -> Vec<u8> {
    let tag = hmac(key, &[&1_u32.to_be_bytes(), label.as_bytes(), &[0], context, &bits.to_be_bytes()]);
    tag.as_ref().to_vec()
}

/// The key derivation of section 11.4.10.3, for 256 bits.
fn kdfe(shared: &[u8], label: &str, ours: &[u8], theirs: &[u8]) -> [u8; 32] {
    sha256(&[&1_u32.to_be_bytes(), shared, label.as_bytes(), &[0], ours, theirs].concat())
}
