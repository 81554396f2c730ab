//! Files of images: archives, and unified kernel images.

use stoke_api::Digest;
use stoke_image::ImageSignature;
use stoke_image::store::{payload, signed_digest};
use stoke_image::uki::{self as pe, Parts};
use stoke_registry::Reference;
use stoke_signing::PublicKey;

/// A cpio archive: what is read lies in it.
pub fn cpio(input: &[u8]) {
    let Ok(entries) = stoke_image::cpio::read(input) else { return };
    let content: usize = entries.iter().map(|entry| entry.content.len()).sum();
    assert!(content <= input.len(), "{content} bytes of content in an archive of {}", input.len());
}

/// A PE program, as a unified kernel image and as the stub of one.
pub fn uki(input: &[u8]) {
    let _ = pe::take_apart(input);
    let parts = Parts {
        os_release: b"ID=test\n".to_vec(),
        arguments: "quiet".to_owned(),
        kernel_version: "6.1".to_owned(),
        initramfs: vec![1; 100],
        kernel: input.to_vec(),
    };
    let Ok(made) = pe::assemble(input, &parts) else { return };
    if let Ok((_, again)) = pe::take_apart(&made) {
        assert!(again.arguments.len() <= made.len());
    }
}

/// What a registry or an archive says of signatures, the document that is signed, a key, and a reference.
pub fn signatures(input: &[u8]) {
    for (blob, _) in ImageSignature::layers(input) {
        assert!(blob.size <= 64 << 10, "a document of {} bytes", blob.size);
    }
    let _ = signed_digest(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    let version = Digest([7; 32]);
    assert_eq!(signed_digest(&payload(text, &version)), Some(version), "a name takes the document over");
    if let Ok(key) = PublicKey::parse(text) {
        let again = PublicKey::parse(&key.to_pem());
        assert_eq!(again.ok().map(|again| again.fingerprint()), Some(key.fingerprint()));
        assert!(!key.verifies(b"message", input));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        let again = reference.to_string().parse::<Reference>();
        assert_eq!(again.as_ref(), Ok(&reference), "{text:?} is another one when it is read again");
    }
}
