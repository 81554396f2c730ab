//! Files of the configuration, and whose they are.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use stoke_api::objects::FileEntry;

use super::root::Root;
use crate::accounts::Accounts;

/// Secrets by their name: the text form of the reference.
pub(crate) type Secrets = BTreeMap<String, Vec<u8>>;

/// Writes all files, those with secrets too.
pub(super) fn write(root: Root<'_>, files: &[FileEntry], secrets: &Secrets) -> Result<()> {
    let accounts = Accounts { passwd: root.read("etc/passwd"), group: root.read("etc/group"), ..Accounts::default() };
    for file in files {
        let content = content(file, secrets)?;
        let mut mode = file.mode();
        let mut whole = Vec::new();
        if file.append && root.has(&file.path) {
            whole = root.read(&file.path).into_bytes();
            if file.mode.is_none() {
                mode = root.mode(&file.path).unwrap_or(mode);
            }
        }
        whole.extend_from_slice(content);
        root.write(&file.path, whole, mode)?;
        let owner = file.owner.as_deref().map_or(Ok((0, 0)), |owner| find_owner(&accounts, owner));
        let owner = owner.with_context(|| format!("files: {}", file.path))?;
        root.own(&file.path, owner)?;
        // A file that is written or given away loses its set-user-ID bit (chown(2)).
        root.set_mode(&file.path, mode)?;
    }
    Ok(())
}

fn content<'a>(file: &'a FileEntry, secrets: &'a Secrets) -> Result<&'a [u8]> {
    match (&file.content, &file.secret) {
        (Some(content), _) => Ok(content.as_bytes()),
        (None, Some(secret)) => match secrets.get(&secret.to_string()) {
            Some(content) => Ok(content),
            None => bail!("files: {} has the secret {secret}, which the farm did not give", file.path),
        },
        (None, None) => Ok(b""),
    }
}

/// `USER` or `USER:GROUP`, by name or number. The group is the user's own if it is not named.
fn find_owner(accounts: &Accounts, text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let account = accounts.find(user);
    let uid = account.as_ref().map(|account| account.uid).or_else(|| user.parse().ok());
    let Some(uid) = uid else { bail!("the image has no account {user:?}") };
    let gid = match group {
        None => account.map_or(uid, |account| account.gid),
        Some(group) => match accounts.group_number(group).or_else(|| group.parse().ok()) {
            Some(gid) => gid,
            None => bail!("the image has no group {group:?}"),
        },
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use stoke_api::objects::{FileMode, SecretRef};

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:990:991::/:/bin/sh\n").unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\napp:x:991:\nadm:x:4:\n").unwrap();
        fs::write(root.path().join("etc/issue"), "Debian\n").unwrap();
        root
    }

    fn file(path: &str, content: &str) -> FileEntry {
        FileEntry { path: path.into(), content: Some(content.into()), ..FileEntry::default() }
    }

    fn about(root: &Path, path: &str) -> (String, u32, u32, u32) {
        let about = root.join(path).metadata().unwrap();
        (fs::read_to_string(root.join(path)).unwrap(), about.mode() & 0o7777, about.uid(), about.gid())
    }

    #[test]
    fn files_have_their_owner_rights_and_place() {
        let root = image();
        let files = [
            file("/srv/a/b", "one"),
            FileEntry { mode: Some(FileMode(0o4750)), owner: Some("app".into()), ..file("/srv/run", "two") },
            FileEntry { owner: Some("7:adm".into()), ..file("/srv/numbers", "three") },
            FileEntry { append: true, ..file("/etc/issue", "more\n") },
            FileEntry { append: true, ..file("/etc/new", "all\n") },
        ];
        write(Root(root.path()), &files, &Secrets::new()).unwrap();
        let about = |path| about(root.path(), path);
        assert_eq!(about("srv/a/b"), ("one".into(), 0o644, 0, 0));
        assert_eq!(about("srv/run"), ("two".into(), 0o4750, 990, 991));
        assert_eq!(about("srv/numbers"), ("three".into(), 0o644, 7, 4));
        assert_eq!(about("etc/issue").0, "Debian\nmore\n");
        assert_eq!(about("etc/new").0, "all\n");
    }

    #[test]
    fn a_secret_is_for_its_owner_alone_and_must_be_there() {
        let root = image();
        let secret = SecretRef { file: Some("/x/token".into()), ..SecretRef::default() };
        let files = [FileEntry { path: "/etc/token".into(), secret: Some(secret), ..FileEntry::default() }];
        let error = write(Root(root.path()), &files, &Secrets::new()).unwrap_err().to_string();
        assert!(error.contains("/etc/token") && error.contains("/x/token"), "{error}");
        write(Root(root.path()), &files, &Secrets::from([("/x/token".into(), b"s3".to_vec())])).unwrap();
        assert_eq!(about(root.path(), "etc/token"), ("s3".into(), 0o600, 0, 0));
    }

    #[test]
    fn an_owner_that_nobody_is() {
        let root = image();
        let wrong = FileEntry { owner: Some("nobody-here".into()), ..file("/srv/x", "") };
        let error = format!("{:#}", write(Root(root.path()), &[wrong], &Secrets::new()).unwrap_err());
        assert!(error.contains("/srv/x") && error.contains("nobody-here"), "{error}");
    }
}
