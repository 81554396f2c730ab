//! The account files (passwd(5), shadow(5), group(5)), as text in and text out.

/// The three files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) shadow: String,
    pub(crate) group: String,
}

/// An account as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// First number of an account for people (`FIRST_UID` in Debian's adduser.conf, `UID_MIN` in login.defs).
const FIRST_UID: u32 = 1000;

impl Accounts {
    /// The account of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Account> {
        let fields: Vec<_> = entry(&self.passwd, name)?.split(':').collect();
        match fields[..] {
            [_, _, uid, gid, _, home, _] => {
                Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.to_owned() })
            }
            _ => None,
        }
    }

    /// The account of this name, made if it is not there: with a group of its own, and no password, so that only keys
    /// let in.
    pub(crate) fn ensure(&mut self, name: &str, shell: &str) -> Account {
        if let Some(account) = self.find(name) {
            return account;
        }
        let uid = self.free_number();
        let group = entry(&self.group, name).and_then(|line| line.split(':').nth(2)?.parse().ok());
        if group.is_none() {
            add(&mut self.group, &format!("{name}:x:{uid}:"));
        }
        let gid = group.unwrap_or(uid);
        let home = format!("/home/{name}");
        add(&mut self.passwd, &format!("{name}:x:{uid}:{gid}::{home}:{shell}"));
        // `*` and not `!`: sshd takes `!` for a locked account and refuses keys too, where it does not use PAM.
        if entry(&self.shadow, name).is_none() {
            add(&mut self.shadow, &format!("{name}:*:19000:0:99999:7:::"));
        }
        Account { uid, gid, home }
    }

    /// A number that is free as a user and as a group.
    fn free_number(&self) -> u32 {
        let numbers =
            |file: &str| -> Vec<u32> { file.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect() };
        let taken = [numbers(&self.passwd), numbers(&self.group)].concat();
        (FIRST_UID..=u32::MAX).find(|number| !taken.contains(number)).unwrap_or(FIRST_UID)
    }
}

fn entry<'a>(file: &'a str, name: &str) -> Option<&'a str> {
    file.lines().find(|line| line.split(':').next() == Some(name))
}

fn add(file: &mut String, line: &str) {
    if !file.is_empty() && !file.ends_with('\n') {
        file.push('\n');
    }
    file.push_str(line);
    file.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nold:x:1000:1000::/home/old:/bin/sh".into(),
            shadow: "root:*:19000:0:99999:7:::\n".into(),
            group: "root:x:0:\nusers:x:1001:\n".into(),
        }
    }

    #[test]
    fn a_new_account_gets_free_numbers_a_group_and_no_password() {
        let mut accounts = accounts();
        let admin = accounts.ensure("admin", "/bin/bash");
        assert_eq!(admin, Account { uid: 1002, gid: 1002, home: "/home/admin".into() });
        assert!(accounts.passwd.ends_with("/bin/sh\nadmin:x:1002:1002::/home/admin:/bin/bash\n"));
        assert!(accounts.shadow.ends_with("admin:*:19000:0:99999:7:::\n"));
        assert!(accounts.group.ends_with("admin:x:1002:\n"));
    }

    #[test]
    fn an_account_that_is_there_is_left_alone() {
        let mut accounts = accounts();
        assert_eq!(accounts.ensure("root", "/bin/sh").home, "/root");
        assert_eq!(accounts, self::accounts());
    }

    #[test]
    fn a_group_that_is_there_is_taken() {
        assert_eq!(accounts().ensure("users", "/bin/sh").gid, 1001);
    }
}
