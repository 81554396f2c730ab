//! What is remembered of a machine in its state folder, so that the next `stoke-vm` goes on where this one ended.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use stoke_api::names::LinkName;
use stoke_vmm::spec::{Accelerator, VmSpec};

/// Format of the file. A file of a later one is refused rather than misread.
const VERSION: u32 = 1;

/// What is remembered of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    version: u32,
    /// Reboots done, or made unnecessary by a start.
    pub(crate) reboots: u64,
    /// Whether it ended by itself since it was last asked to be on.
    pub(crate) ended: bool,
    /// Whether its last end was one that its system did not ask for.
    #[serde(default)]
    pub(crate) failed: bool,
    /// The last start; written before QEMU exists, so that a QEMU without it is none of ours.
    pub(crate) start: Option<Start>,
}

/// One start of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Start {
    /// What the guest was given.
    pub(crate) spec: VmSpec,
    /// What executes it.
    pub(crate) accelerator: Accelerator,
    /// Why that.
    pub(crate) reason: String,
    /// Links of the host that its interfaces are, in order.
    pub(crate) links: Vec<LinkName>,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// When the guest was last reset since, by whomever, in milliseconds since 1970; 0 if it was not.
    #[serde(default)]
    pub(crate) reset_ms: u64,
}

impl Start {
    /// When the boot that runs began, in milliseconds since 1970.
    pub(crate) fn boot_ms(&self) -> u64 {
        self.at_ms.max(self.reset_ms)
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { version: VERSION, reboots: 0, ended: false, failed: false, start: None }
    }
}

/// A record and its file.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    record: Record,
    existed: bool,
}

impl Memory {
    /// Reads the record; an empty one if there is none.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let path = path.to_owned();
        if !path.exists() {
            return Ok(Self { path, record: Record::default(), existed: false });
        }
        let text = fs_err::read_to_string(&path)?;
        let record: Record =
            serde_json::from_str(&text).with_context(|| format!("{} is no record of a machine", path.display()))?;
        anyhow::ensure!(
            record.version <= VERSION,
            "{} was written by a newer version of stoke-vm ({} > {VERSION})",
            path.display(),
            record.version
        );
        Ok(Self { path, record, existed: true })
    }

    /// Whether there was a record when this one was opened.
    pub(crate) fn existed(&self) -> bool {
        self.existed
    }

    /// What is remembered.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Changes what is remembered; on disk when this returns.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Record)) -> anyhow::Result<()> {
        let mut record = self.record.clone();
        change(&mut record);
        if record != self.record {
            self.write(&record)?;
            self.record = record;
        }
        Ok(())
    }

    fn write(&self, record: &Record) -> anyhow::Result<()> {
        let new = self.path.with_extension("new");
        fs_err::write(&new, serde_json::to_vec_pretty(record)?)?;
        fs_err::File::open(&new)?.sync_all()?;
        fs_err::rename(&new, &self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let mut memory = Memory::open(&path).unwrap();
        assert!(!memory.existed());
        memory.change(|record| record.reboots = 3).unwrap();
        let again = Memory::open(&path).unwrap();
        assert!(again.existed());
        assert_eq!(again.record(), memory.record());
    }

    #[test]
    fn a_record_from_before_resets_were_noted_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let spec = r#"{"name":"a","uuid":"u","cpus":1,"memory":"1Gi","firmware":"Bios","macs":[]}"#;
        let start = format!(r#"{{"spec":{spec},"accelerator":"tcg","reason":"","links":[],"atMs":7}}"#);
        fs_err::write(&path, format!(r#"{{"version":1,"reboots":0,"ended":false,"start":{start}}}"#)).unwrap();
        assert_eq!(Memory::open(&path).unwrap().record().start.as_ref().unwrap().boot_ms(), 7);
    }

    #[test]
    fn a_record_of_a_later_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        fs_err::write(&path, r#"{"version": 2, "reboots": 0, "ended": false, "start": null}"#).unwrap();
        assert!(Memory::open(&path).unwrap_err().to_string().contains("newer version"));
    }
}
