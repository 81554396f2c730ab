//! Stage `initramfs`: `stoke-init`, the modules that it may need, and what the image says of itself.
//!
//! Two compressed archives behind each other, which the kernel unpacks in order (`unpack_to_rootfs` in
//! `init/initramfs.c`): the modules change with the kernel only, so a changed root or `stoke-init` compresses little.

use std::collections::BTreeMap;
use std::io;

use stoke_api::node::{BAKED_PATH, Baked};

use crate::cpio::Writer;
use crate::modules::Selection;

/// zstd: of 27.6 MB, level 12 makes 6.2 in 1.2 s of processor time and level 19 makes 5.5 in 12 s, where gzip's best makes
/// 7.3. An emulated kernel unpacks it in 0.6 s.
const COMPRESSION: i32 = 12;

/// The archive of modules and their index files.
pub(crate) fn modules(
    version: &str,
    selection: &Selection,
    modules: &BTreeMap<String, Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    let folder = format!("lib/modules/{version}");
    let indexes =
        [("modules.dep", &selection.dep), ("modules.alias", &selection.alias), ("modules.softdep", &selection.softdep)];
    for (name, text) in indexes {
        writer.file(&format!("{folder}/{name}"), 0o644, text.as_bytes())?;
    }
    for (path, content) in modules {
        writer.file(&format!("{folder}/{path}"), 0o644, content)?;
    }
    compress(&writer.finish()?)
}

/// The archive of `stoke-init` and what it is told.
pub(crate) fn init(program: &[u8], baked: &Baked, builtin: &str) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    for folder in ["proc", "sys", "run", "newroot", "tmp", "etc"] {
        writer.directory(folder, 0o755)?;
    }
    // Before anything is mounted, messages of init go where this points (console_on_rootfs in init/main.c).
    writer.character_device("dev/console", 0o600, 5, 1)?;
    writer.character_device("dev/null", 0o666, 1, 3)?;
    writer.file("init", 0o755, program)?;
    writer.file(&format!("lib/modules/{}/modules.builtin", baked.kernel), 0o644, builtin.as_bytes())?;
    let baked = serde_json::to_vec_pretty(baked).map_err(io::Error::other)?;
    writer.file(BAKED_PATH, 0o644, &baked)?;
    compress(&writer.finish()?)
}

fn compress(archive: &[u8]) -> io::Result<Vec<u8>> {
    zstd::encode_all(archive, COMPRESSION)
}
