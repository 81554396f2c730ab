//! A root on an NFS server of the user's: mounted read-only, below the writable layer.
//!
//! What is on that server is trusted as it is: dm-verity verifies block devices, and this is none. The kernel does the
//! mount protocol itself (Linux' `fs/nfs/fs_context.c` and `mount_clnt.c`); nothing of it runs here.

use std::ffi::CString;
use std::fs::create_dir_all;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};
use stoke_api::objects::NfsRoot;

use crate::modules::Loader;

/// Options of who names none.
const USUAL: [&str; 2] = ["vers=3", "nolock"];

/// Mounts it at `folder`.
pub(crate) fn attach(root: &NfsRoot, folder: &str, loader: &mut Loader) -> Result<()> {
    let options = options(root);
    // The kernel asks a program for its versions, and there is none here.
    loader.load("nfsv3", c"")?;
    create_dir_all(folder).with_context(|| format!("could not make {folder}"))?;
    let source = format!("{}:{}", root.server, root.path);
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    let text = CString::new(options.join(","))?;
    mount(&source, folder, "nfs", flags, Some(text.as_c_str()))
        .with_context(|| format!("could not mount {source} by NFS ({})", options.join(",")))
}

/// The kernel wants the address beside the name, and the mount protocol's transport: by itself it would take UDP.
fn options(root: &NfsRoot) -> Vec<String> {
    let own = root.options.iter().map(String::as_str);
    let given: Vec<_> = if root.options.is_empty() { USUAL.to_vec() } else { own.collect() };
    let named = |key: &str| given.iter().any(|option| option.split('=').next() == Some(key));
    let mut options: Vec<_> = given.iter().map(|option| (*option).to_owned()).collect();
    if !named("mountproto") {
        options.push("mountproto=tcp".to_owned());
    }
    if !named("addr") {
        options.push(format!("addr={}", root.server));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &[&str]) -> String {
        let options_given = options.iter().map(|option| (*option).to_owned()).collect();
        let root = NfsRoot { server: [10, 10, 0, 5].into(), path: "/srv/root".into(), options: options_given };
        super::options(&root).join(",")
    }

    #[test]
    fn what_the_kernel_needs_is_added_and_what_is_given_is_kept() {
        assert_eq!(told(&[]), "vers=3,nolock,mountproto=tcp,addr=10.10.0.5");
        assert_eq!(told(&["nolock", "mountproto=udp"]), "nolock,mountproto=udp,addr=10.10.0.5");
    }
}
