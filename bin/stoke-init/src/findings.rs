//! What the system says of the node's configuration once it runs: hooks that failed, mounts that are not there, a system
//! that has stopped where somebody must look after it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stoke_api::objects::MountEntry;

use crate::configure::{EMERGENCY_FILE, OUTPUT, failures};

/// A mount that the node is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    path: String,
    device: String,
    /// Whether the system comes up without it.
    may_fail: bool,
}

impl Expected {
    /// The mounts that are made when the system starts; others come when somebody asks for them.
    pub(crate) fn of(mounts: &[MountEntry]) -> Vec<Self> {
        let has = |mount: &MountEntry, option: &str| mount.options.iter().any(|given| given == option);
        let at_boot = |mount: &&MountEntry| !has(mount, "noauto") && !has(mount, "x-systemd.automount");
        let expected = |mount: &MountEntry| Self {
            path: mount.path.clone(),
            device: mount.device.clone(),
            may_fail: has(mount, "nofail"),
        };
        mounts.iter().filter(at_boot).map(expected).collect()
    }
}

/// How long a mount without which the system comes up may take after that.
const LATE: Duration = Duration::from_secs(10);

/// Where to look; other places in tests.
#[derive(Debug)]
struct Places {
    hooks: PathBuf,
    emergency: PathBuf,
    mounts: PathBuf,
}

/// Looks again and again, and says what is new.
#[derive(Debug)]
pub(crate) struct Watch {
    places: Places,
    expected: Vec<Expected>,
    /// What was remarked before the system started.
    before: Vec<String>,
    remarks: Vec<String>,
    failure: Option<String>,
    up_since: Option<Instant>,
}

/// What is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// All remarks, if they are others than before.
    pub(crate) remarks: Option<Vec<String>>,
    /// Why the boot has failed, once.
    pub(crate) failure: Option<String>,
}

impl Watch {
    pub(crate) fn new(expected: Vec<Expected>, before: Vec<String>) -> Self {
        let (hooks, emergency) = (OUTPUT.into(), EMERGENCY_FILE.into());
        let places = Places { hooks, emergency, mounts: "/proc/self/mountinfo".into() };
        Self { places, expected, remarks: before.clone(), before, failure: None, up_since: None }
    }

    /// Looks at the node. `is_up` is whether the system has said so.
    pub(crate) fn look(&mut self, is_up: bool, now: Instant) -> News {
        self.up_since = if is_up { self.up_since.or(Some(now)) } else { None };
        let hooks = failures(&self.places.hooks);
        let mut remarks = self.before.clone();
        remarks.extend(hooks.iter().filter(|hook| !hook.is_fatal || is_up).map(|hook| hook.message.clone()));
        let settled = self.up_since.is_some_and(|since| now.duration_since(since) >= LATE);
        let missing = self.missing().into_iter().filter(|_| settled);
        remarks.extend(missing.map(|mount| format!("mount {}: {} is not there", mount.path, mount.device)));
        let fatal = hooks.iter().find(|hook| hook.is_fatal).map(|hook| hook.message.clone());
        let failure = fatal.filter(|_| !is_up).or_else(|| self.emergency());
        let mut news = News::default();
        if remarks != self.remarks {
            self.remarks.clone_from(&remarks);
            news.remarks = Some(remarks);
        }
        if failure != self.failure {
            self.failure.clone_from(&failure);
            news.failure = failure;
        }
        news
    }

    /// Why the system has stopped, as far as it can be told from here.
    fn emergency(&self) -> Option<String> {
        if !self.places.emergency.exists() {
            return None;
        }
        let missing: Vec<_> = self.missing().into_iter().filter(|mount| !mount.may_fail).collect();
        let reasons = missing.iter().map(|mount| format!("mount {}: {} is not there", mount.path, mount.device));
        let reasons: Vec<_> = reasons.collect();
        let hint = "; with `nofail` the node boots without it";
        let stopped = "the system has stopped in emergency mode: ";
        Some(if reasons.is_empty() {
            format!("{stopped}see its console")
        } else {
            format!("{stopped}{}{hint}", reasons.join(", "))
        })
    }

    fn missing(&self) -> Vec<&Expected> {
        if self.expected.is_empty() {
            return Vec::new();
        }
        let text = fs::read_to_string(&self.places.mounts).unwrap_or_default();
        let mounted: Vec<_> = text.lines().filter_map(mount_point).collect();
        self.expected
            .iter()
            .filter(|mount| !mounted.iter().any(|path| Path::new(path) == Path::new(&mount.path)))
            .collect()
    }
}

/// The fifth field of a line of mountinfo (proc(5)), in which white space is written in octal.
fn mount_point(line: &str) -> Option<String> {
    let field = line.split(' ').nth(4)?;
    Some(field.replace("\\040", " ").replace("\\011", "\t").replace("\\043", "#").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        folder: tempfile::TempDir,
        watch: Watch,
        start: Instant,
    }

    impl Node {
        fn new(mounts: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mounts: Vec<MountEntry> = serde_json::from_str(mounts).unwrap();
            let mut watch = Watch::new(Expected::of(&mounts), vec!["ntp: none".into()]);
            let place = |name: &str| folder.path().join(name);
            watch.places = Places { hooks: place("hooks"), emergency: place("emergency"), mounts: place("mounts") };
            fs::create_dir(place("hooks")).unwrap();
            Self { watch, folder, start: Instant::now() }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn look(&mut self, is_up: bool, seconds: u64) -> News {
            self.watch.look(is_up, self.start + Duration::from_secs(seconds))
        }
    }

    const MOUNTS: &str = r#"[{"path":"/srv/my data","device":"LABEL=a","options":["nofail"]},
        {"path":"/x","device":"LABEL=x"},{"path":"/later","device":"LABEL=l","options":["noauto"]}]"#;

    #[test]
    fn a_mount_that_is_not_there_is_remarked_until_it_is() {
        let mut node = Node::new(MOUNTS);
        node.write("mounts", "1 2 0:3 / /x rw - ext4 /dev/vda rw\n");
        assert_eq!(node.look(true, 1), News::default());
        let remarks = node.look(true, 12).remarks.unwrap();
        assert_eq!(remarks, ["ntp: none", "mount /srv/my data: LABEL=a is not there"]);
        assert_eq!(node.look(true, 14), News::default());
        node.write("mounts", "1 2 0:3 / /x rw - ext4 /dev/vda rw\n1 2 0:3 / /srv/my\\040data rw - ext4 /dev/vdb rw\n");
        assert_eq!(node.look(true, 16).remarks.unwrap(), ["ntp: none"]);
    }

    #[test]
    fn a_system_that_stops_says_which_mount_it_lacks() {
        let mut node = Node::new(MOUNTS);
        node.write("mounts", "");
        assert_eq!(node.look(false, 1), News::default());
        node.write("emergency", "");
        let failure = node.look(false, 2).failure.unwrap();
        assert!(failure.contains("emergency mode: mount /x: LABEL=x is not there;"), "{failure}");
        assert_eq!(node.look(false, 3), News::default());
    }

    #[test]
    fn hooks_fail_the_boot_or_are_remarked() {
        let mut node = Node::new("[]");
        node.write("hooks/a.remark", "exit-code 1\n");
        node.write("hooks/b.failed", "exit-code 2\n");
        let news = node.look(false, 1);
        assert_eq!(news.remarks.unwrap(), ["ntp: none", "hook a: exit-code 1"]);
        assert_eq!(news.failure.unwrap(), "hook b: exit-code 2");
        assert_eq!(node.look(false, 2), News::default());
    }
}
