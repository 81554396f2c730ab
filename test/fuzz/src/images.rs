//! Files of images: archives, and unified kernel images.

use stoke_image::uki::{self as pe, Parts};

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
