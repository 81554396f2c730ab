//! `SignedData` of PKCS #7 (RFC 2315): one signature by one key, with its certificate.

use sha2::{Digest as _, Sha256};

use crate::der::{self, algorithm, object, octets, sequence, set, small, value};
use crate::keys::{KeyError, Signer};

/// 2.16.840.1.101.3.4.2.1.
const SHA256: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 1.2.840.113549.1.1.1.
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.113549.1.7.1 and .2.
const DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const SIGNED_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.9.3 and .4.
const CONTENT_TYPE: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// Tag of an optional part, with its content in it or in its place.
const FIRST: u8 = 0xa0;

/// SHA-256 and how it is called, of something that is signed.
pub(crate) fn digest_info(digest: &[u8]) -> Vec<u8> {
    sequence(&[&algorithm(&SHA256), &octets(digest)])
}

/// A signature over content that is not part of it.
pub(crate) fn detached(signer: &Signer, content: &[u8]) -> Result<Vec<u8>, KeyError> {
    let signature = signer.sign(content)?;
    signed_data(signer, &sequence(&[&object(&DATA)]), &[], &signature)
}

/// A signature over content of a type (an object identifier), which is part of it: a sequence, of which the tag and length
/// are not hashed (RFC 2315, section 9.3). With the outermost wrapping.
pub(crate) fn enclosed(signer: &Signer, kind: &[u8], content: &[u8]) -> Result<Vec<u8>, KeyError> {
    let hashed = der::read(content).map(|(value, _)| value.content).unwrap_or_default();
    let attribute = |name: &[u8], value: Vec<u8>| sequence(&[&object(name), &set(vec![value])]);
    let digest = octets(&Sha256::digest(hashed));
    let attributes = set(vec![attribute(&CONTENT_TYPE, object(kind)), attribute(&MESSAGE_DIGEST, digest)]);
    // They are signed as the set that they are, and stored in the place of an optional part.
    let signature = signer.sign(&attributes)?;
    let stored = der::read(&attributes).map(|(set, _)| value(FIRST, &[set.content])).unwrap_or_default();
    let content = sequence(&[&object(kind), &value(FIRST, &[content])]);
    let data = signed_data(signer, &content, &stored, &signature)?;
    Ok(sequence(&[&object(&SIGNED_DATA), &value(FIRST, &[&data])]))
}

fn signed_data(signer: &Signer, content: &[u8], attributes: &[u8], signature: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (issuer, serial) = der::issuer_and_serial(signer.certificate()).ok_or(KeyError::Certificate)?;
    let signer_info = sequence(&[
        &small(1),
        &sequence(&[issuer, serial]),
        &algorithm(&SHA256),
        attributes,
        &algorithm(&RSA),
        &octets(signature),
    ]);
    let (algorithms, signers) = (set(vec![algorithm(&SHA256)]), set(vec![signer_info]));
    Ok(sequence(&[&small(1), &algorithms, content, &value(FIRST, &[signer.certificate()]), &signers]))
}
