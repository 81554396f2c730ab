//! Leases on disk. One thread owns the file and writes what has gathered in one batch: one sync for all of it, then the
//! replies. No acknowledgement leaves before its record is on disk.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use stoke_dhcp::{Record, Reply, journal};

/// Requests that may wait for the disk. Beyond this the disk is the bottleneck, and a client's retry is better than an
/// answer that comes after it has given up.
const QUEUE: usize = 1024;
/// Most requests in one batch: all that wait.
const BATCH: usize = QUEUE;
/// Syncs begin no sooner one after the other. Each costs processor time whatever it writes, so leases that come in quick
/// succession share them; one that comes alone does not wait.
const APART: Duration = Duration::from_millis(1);
/// A journal is written anew when it is longer than its table by this many records, and by the table's own length: so
/// that each record is written twice on average, however long the table is.
const SLACK: usize = 4096;

/// The file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Up to here everything is whole.
    length: u64,
    records: usize,
    /// Held while the journal is ours.
    _lock: File,
}

impl Journal {
    /// Opens or creates a journal: it, and the records in it. One that is not there begins as the copy `seed`.
    ///
    /// # Errors
    /// If another process has it, it is not a journal, or the disk refuses.
    pub(crate) fn open(path: &Path, seed: Option<&Path>) -> anyhow::Result<(Self, Vec<Record>)> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let lock = lock(path)?;
        // Even a journal without leases has a header: an empty file is one that was never begun.
        let (bytes, is_new) = match read(path)?.filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => (bytes, false),
            None => (seed.map(read).transpose()?.flatten().unwrap_or_default(), true),
        };
        let replay = journal::replay(&bytes).with_context(|| {
            let path = path.display();
            format!("cannot use {path} as journal of leases; move it away to start with no leases")
        })?;
        if replay.damaged > 0 && !is_new {
            let aside = path.with_extension("damaged");
            fs_err::copy(path, &aside)?;
            tracing::warn!(bytes = replay.damaged, kept = %aside.display(), "the journal of leases is damaged");
        }
        let length = replay.end as u64;
        let records = replay.records.len();
        let file = fs_err::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?.into();
        let mut opened = Self { path: path.to_owned(), file, length, records, _lock: lock };
        if is_new || length == 0 || replay.damaged > 0 {
            opened.rewrite(&replay.records)?;
        } else {
            opened.cut()?;
        }
        Ok((opened, replay.records))
    }

    /// Appends records and returns when they are on disk. If that fails, the file is as before.
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let bytes = records.iter().map(journal::encode).collect::<Vec<_>>().concat();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.cut()?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.records += records.len();
        Ok(())
    }

    /// Removes what follows the last whole record.
    fn cut(&mut self) -> io::Result<()> {
        use std::io::Seek as _;
        self.file.set_len(self.length)?;
        self.file.seek(io::SeekFrom::Start(self.length))?;
        Ok(())
    }

    /// Replaces the file by one with these records; a crash leaves the old one or the new one.
    fn rewrite(&mut self, records: &[Record]) -> io::Result<()> {
        let staged = self.path.with_extension("new");
        let mut file: File = fs_err::File::create(&staged)?.into();
        let bytes = journal::header().into_iter().chain(records.iter().flat_map(journal::encode)).collect::<Vec<_>>();
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs_err::rename(&staged, &self.path)?;
        if let Some(folder) = self.path.parent() {
            fs_err::File::open(folder)?.sync_all()?;
        }
        self.file = file;
        self.length = bytes.len() as u64;
        self.records = records.len();
        Ok(())
    }
}

/// A file that may not be there.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs_err::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// A second router on the same journal would give addresses twice. The lock is a file of its own, because the journal is
/// replaced now and then.
fn lock(path: &Path) -> anyhow::Result<File> {
    let beside = path.with_extension("lock");
    let file: File = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&beside)?.into();
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("{} is in use by another router", path.display()))?;
    Ok(file)
}

/// Something to write, and the reply that waits for it.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// The records.
    pub(crate) records: Vec<Record>,
    /// The reply.
    pub(crate) reply: Option<Reply>,
}

/// What the thread needs of its surroundings.
pub(crate) trait Surroundings: Send + 'static {
    /// Sends a reply whose record is on disk.
    fn send(&mut self, reply: &Reply);
    /// Number of records that the table is.
    fn table_length(&mut self) -> usize;
    /// The whole table, of which the journal is written anew.
    fn snapshot(&mut self) -> Vec<Record>;
    /// A batch is on disk, or is not and why.
    fn concluded(&mut self, records: usize, failure: Option<String>);
}

/// The thread that writes. It ends when the last sender is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Writer(SyncSender<Commit>);

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(journal: Journal, surroundings: impl Surroundings) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let run = move || write_all(journal, &receiver, surroundings);
        std::thread::Builder::new().name("journal".to_owned()).spawn(run)?;
        Ok(Self(sender))
    }

    /// Queues a commit; whether there was room.
    pub(crate) fn commit(&self, commit: Commit) -> bool {
        match self.0.try_send(commit) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn write_all(mut journal: Journal, receiver: &Receiver<Commit>, mut surroundings: impl Surroundings) {
    let mut synced: Option<Instant> = None;
    while let Ok(first) = receiver.recv() {
        if let Some(early) = synced.and_then(|synced| APART.checked_sub(synced.elapsed())) {
            std::thread::sleep(early);
        }
        synced = Some(Instant::now());
        let batch = std::iter::once(first).chain(receiver.try_iter().take(BATCH - 1)).collect::<Vec<_>>();
        let records = batch.iter().flat_map(|commit| commit.records.iter().cloned()).collect::<Vec<_>>();
        match journal.append(&records) {
            Ok(()) => {
                batch.iter().filter_map(|commit| commit.reply.as_ref()).for_each(|reply| surroundings.send(reply));
                surroundings.concluded(records.len(), None);
            }
            Err(error) => {
                let path = journal.path.display();
                let failure = format!("cannot write {path}: {error}; leases are not acknowledged until it can");
                surroundings.concluded(0, Some(failure));
            }
        }
        compact(&mut journal, &mut surroundings);
    }
}

/// The snapshot may be ahead of what is queued; writing that again afterwards changes nothing.
fn compact(journal: &mut Journal, surroundings: &mut impl Surroundings) {
    if journal.records < SLACK {
        return;
    }
    let length = surroundings.table_length();
    if journal.records.saturating_sub(length) < SLACK.max(length) {
        return;
    }
    let table = surroundings.snapshot();
    if let Err(error) = journal.rewrite(&table) {
        tracing::warn!(journal = %journal.path.display(), "cannot write the journal anew: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::mpsc::{Sender, channel};
    use stoke_api::MacAddr;
    use stoke_dhcp::{Destination, Lease};

    fn leased(last: u8, expires: u64) -> Record {
        let (address, mac) = (Ipv4Addr::new(10, 0, 0, last), MacAddr([2, 0, 0, 0, 0, last]));
        Record::Leased(Lease { address, mac, expires, reserved: false, hostname: None })
    }

    fn reply() -> Reply {
        Reply { bytes: vec![], from: Ipv4Addr::LOCALHOST, to: Destination::Routed(Ipv4Addr::LOCALHOST) }
    }

    /// Looks into the file whenever a reply is sent.
    struct Witness {
        path: PathBuf,
        seen: Sender<usize>,
    }

    impl Surroundings for Witness {
        fn send(&mut self, _: &Reply) {
            let replay = journal::replay(&fs_err::read(&self.path).unwrap()).unwrap();
            self.seen.send(replay.records.len()).unwrap();
        }
        fn table_length(&mut self) -> usize {
            1
        }
        fn snapshot(&mut self) -> Vec<Record> {
            vec![leased(1, 0)]
        }
        fn concluded(&mut self, _: usize, failure: Option<String>) {
            assert_eq!(failure, None);
        }
    }

    #[test]
    fn a_reply_leaves_when_its_record_is_in_the_file_and_long_journals_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.journal");
        let (journal, records) = Journal::open(&path, None).unwrap();
        assert_eq!(records, []);
        let (seen, sightings) = channel();
        let writer = Writer::start(journal, Witness { path: path.clone(), seen }).unwrap();
        let bulk = vec![leased(1, 0); SLACK];
        for (record, expected) in [(vec![leased(1, 1)], 1), (bulk, 1 + SLACK), (vec![leased(2, 1)], 2)] {
            assert!(writer.commit(Commit { records: record, reply: Some(reply()) }));
            assert_eq!(sightings.recv().unwrap(), expected);
        }
    }

    #[test]
    fn what_a_crash_has_cut_is_cut_off_and_damage_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.journal");
        let open = || Journal::open(&path, None).unwrap();
        let (mut journal, _) = open();
        journal.append(&[leased(1, 1), leased(2, 2)]).unwrap();
        drop(journal);
        let whole = fs_err::read(&path).unwrap();
        fs_err::write(&path, &whole[..whole.len() - 3]).unwrap();
        let (mut journal, records) = open();
        assert_eq!(records, [leased(1, 1)]);
        journal.append(&[leased(3, 3)]).unwrap();
        drop(journal);
        assert_eq!(open().1, [leased(1, 1), leased(3, 3)]);

        let mut spoilt = fs_err::read(&path).unwrap();
        spoilt[15] ^= 1;
        fs_err::write(&path, &spoilt).unwrap();
        assert_eq!(open().1, [leased(3, 3)]);
        assert_eq!(fs_err::read(path.with_extension("damaged")).unwrap(), spoilt);
        assert_eq!(open().1, [leased(3, 3)]);
    }

    #[test]
    fn a_new_journal_begins_with_what_was_copied_and_an_old_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, seed) = (folder.path().join("lab.journal"), folder.path().join("seed"));
        let records = [leased(1, 1), leased(2, 2)];
        let bytes = journal::header().into_iter().chain(records.iter().flat_map(journal::encode)).collect::<Vec<_>>();
        fs_err::write(&seed, bytes).unwrap();
        let (journal, found) = Journal::open(&path, Some(&seed)).unwrap();
        assert_eq!(found, records);
        drop(journal);
        fs_err::write(&seed, journal::header()).unwrap();
        let (mut journal, found) = Journal::open(&path, Some(&seed)).unwrap();
        assert_eq!(found, records);
        journal.append(&[leased(3, 3)]).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path, None).unwrap().1.len(), 3);
        let other = folder.path().join("other.journal");
        assert_eq!(Journal::open(&other, Some(&folder.path().join("missing"))).unwrap().1, []);
    }

    #[test]
    fn a_second_router_and_a_foreign_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.journal");
        let held = Journal::open(&path, None).unwrap();
        let error = Journal::open(&path, None).unwrap_err();
        assert!(error.to_string().contains("is in use by another router"), "{error:#}");
        drop(held);
        fs_err::write(&path, "#!/bin/sh").unwrap();
        let error = format!("{:#}", Journal::open(&path, None).unwrap_err());
        assert!(error.contains("move it away"), "{error}");
    }
}
