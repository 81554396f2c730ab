//! Accounts and their keys.

use anyhow::Result;
use stoke_api::objects::User;

use super::root::Root;
use crate::accounts::{Account, Accounts};

/// Makes the accounts, and lets their keys in.
pub(super) fn write(root: Root<'_>, users: &[User]) -> Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let before =
        Accounts { passwd: root.read("etc/passwd"), shadow: root.read("etc/shadow"), group: root.read("etc/group") };
    let mut accounts = before.clone();
    let shell = if root.has("bin/bash") { "/bin/bash" } else { "/bin/sh" };
    let owners: Vec<_> = users.iter().map(|user| (user, accounts.ensure_user(user, shell))).collect();
    for (file, old, new, mode) in [
        ("etc/passwd", &before.passwd, &accounts.passwd, 0o644),
        ("etc/group", &before.group, &accounts.group, 0o644),
        ("etc/shadow", &before.shadow, &accounts.shadow, 0o640),
    ] {
        if old != new {
            root.replace(file, new, mode)?;
        }
    }
    owners.into_iter().try_for_each(|(user, account)| keys(root, user, &account))
}

/// The account's home and its `authorized_keys`, as sshd wants them: nobody else may write there.
fn keys(root: Root<'_>, user: &User, account: &Account) -> Result<()> {
    let home = account.home.trim_start_matches('/').to_owned();
    let owner = (account.uid, account.gid);
    let ssh = format!("{home}/.ssh");
    root.folder(&home, 0o700, owner)?;
    root.folder(&ssh, 0o700, owner)?;
    let lines: String = user.ssh_authorized_keys.iter().flat_map(|key| [key.trim(), "\n"]).collect();
    let file = format!("{ssh}/authorized_keys");
    root.write(&file, lines, 0o600)?;
    root.own(&file, owner)
}
