//! The account files (passwd(5), shadow(5), group(5)), as text in and text out.

use stoke_api::objects::User;

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
    fn ensure(&mut self, name: &str, number: Option<u32>, shell: &str) -> Account {
        if let Some(account) = self.find(name) {
            return account;
        }
        let uid = number.unwrap_or_else(|| self.free_number());
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

    /// The account that the configuration names, with its groups; made if it is not there.
    pub(crate) fn ensure_user(&mut self, user: &User, usual_shell: &str) -> Account {
        let is_new = self.find(&user.name).is_none();
        let account = self.ensure(&user.name, user.uid, user.shell.as_deref().unwrap_or(usual_shell));
        if let Some(shell) = user.shell.as_deref().filter(|_| !is_new) {
            self.set_shell(&user.name, shell);
        }
        for group in &user.groups {
            self.join(&user.name, group);
        }
        account
    }

    /// The number of a group.
    pub(crate) fn group_number(&self, name: &str) -> Option<u32> {
        entry(&self.group, name)?.split(':').nth(2)?.parse().ok()
    }

    fn set_shell(&mut self, name: &str, shell: &str) {
        change(&mut self.passwd, name, |line| match line.rsplit_once(':') {
            Some((rest, _)) => format!("{rest}:{shell}"),
            None => line.to_owned(),
        });
    }

    /// Puts an account into a group, which is made if it is not there.
    fn join(&mut self, user: &str, group: &str) {
        if entry(&self.group, group).is_none() {
            let number = self.free_number();
            add(&mut self.group, &format!("{group}:x:{number}:"));
        }
        change(&mut self.group, group, |line| {
            let members = line.rsplit(':').next().unwrap_or_default();
            if members.split(',').any(|member| member == user) {
                return line.to_owned();
            }
            if members.is_empty() { format!("{line}{user}") } else { format!("{line},{user}") }
        });
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

/// Changes the line of an entry, if there is one.
fn change(file: &mut String, name: &str, with: impl Fn(&str) -> String) {
    let is_its = |line: &str| line.split(':').next() == Some(name);
    let lines: Vec<_> = file.lines().map(|line| if is_its(line) { with(line) } else { line.to_owned() }).collect();
    *file = lines.join("\n") + "\n";
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
        let admin = accounts.ensure("admin", None, "/bin/bash");
        assert_eq!(admin, Account { uid: 1002, gid: 1002, home: "/home/admin".into() });
        assert!(accounts.passwd.ends_with("/bin/sh\nadmin:x:1002:1002::/home/admin:/bin/bash\n"));
        assert!(accounts.shadow.ends_with("admin:*:19000:0:99999:7:::\n"));
        assert!(accounts.group.ends_with("admin:x:1002:\n"));
    }

    #[test]
    fn an_account_that_is_there_is_left_alone() {
        let mut accounts = accounts();
        assert_eq!(accounts.ensure("root", None, "/bin/sh").home, "/root");
        assert_eq!(accounts, self::accounts());
    }

    #[test]
    fn numbers_groups_and_shells_are_as_the_configuration_says() {
        let mut accounts = accounts();
        let user = |name: &str, uid, groups: &[&str], shell: Option<&str>| User {
            name: name.into(),
            uid,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            shell: shell.map(str::to_owned),
            ..User::default()
        };
        accounts.ensure_user(&user("ops", Some(2000), &["users", "wheel"], None), "/bin/bash");
        accounts.ensure_user(&user("old", Some(7), &["users", "users"], Some("/bin/zsh")), "/bin/bash");
        assert!(accounts.passwd.contains("ops:x:2000:2000::/home/ops:/bin/bash\n"));
        assert!(accounts.passwd.contains("old:x:1000:1000::/home/old:/bin/zsh\n"));
        assert!(accounts.group.contains("users:x:1001:ops,old\n"));
        assert!(accounts.group.contains("wheel:x:1002:ops\n"));
    }

    #[test]
    fn a_group_that_is_there_is_taken() {
        assert_eq!(accounts().ensure("users", None, "/bin/sh").gid, 1001);
    }
}
