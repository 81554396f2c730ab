//! The key that enters the installation's nodes.

use std::process::Command;

use anyhow::Context as _;

use crate::paths::Folders;

/// The public half; the pair is made the first time, by OpenSSH's own program, which is there wherever `stoke ssh` works.
///
/// # Errors
/// If there is no `ssh-keygen`, or the folder cannot be written.
pub(crate) fn ssh_public_key(folders: &Folders) -> anyhow::Result<String> {
    let (key, public) = (folders.ssh_key(), folders.ssh_key().with_extension("pub"));
    if !public.exists() {
        fs_err::create_dir_all(folders.keys())?;
        // Left by a process that was killed in between; ssh-keygen would ask whether to overwrite it.
        let _ = std::fs::remove_file(&key);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "stokehold", "-f"]).arg(&key);
        let made = command.output().context("cannot run ssh-keygen; install openssh-client")?;
        let why = String::from_utf8_lossy(&made.stderr);
        anyhow::ensure!(made.status.success(), "ssh-keygen failed: {}", why.trim());
    }
    Ok(fs_err::read_to_string(public)?.trim().to_owned())
}
