//! One running QEMU: started by us or found running, watched and commanded the same way.

use std::os::fd::AsFd as _;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail, ensure};
use stoke_api::workload::VmConfig;
use stoke_vmm::client::{Client, Events, OnReboot, QmpError};
use stoke_vmm::process::{Process, last_messages, spawn};
use stoke_vmm::qmp::Event;
use stoke_vmm::spec::{Accelerator, Placement, Tap, VmFiles, VmSpec};
use stoke_vmm::{disk, firmware, probe, qemu, tpm};
use tokio::time::{Instant, sleep};

use crate::capacity;
use crate::ports::{self, Port};
use crate::record::{Memory, Start};

/// How long a new QEMU may take until it answers; it takes 50 ms on an idle host.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Pause between two looks at a QEMU that is starting.
const LOOK: Duration = Duration::from_millis(10);

/// Pause before a lost control connection is made again.
const RECONNECT: Duration = Duration::from_secs(1);

/// One running QEMU.
#[derive(Debug)]
pub(crate) struct Hypervisor {
    process: Process,
    control: Option<(Client, Events)>,
    files: VmFiles,
    start: Start,
}

/// What a QEMU does.
#[derive(Debug)]
pub(crate) enum Happening {
    /// It said something.
    Event(Event),
    /// The control connection is there again; events may have been missed.
    Reconnected,
    /// It is over; how is known only if we started it.
    Ended(Option<ExitStatus>),
}

impl Hypervisor {
    /// Takes over the QEMU that runs this machine, if there is one.
    ///
    /// # Errors
    /// If there is one that is not this machine's, or that does not answer.
    pub(crate) async fn adopt(config: &VmConfig, files: &VmFiles, memory: &Memory) -> anyhow::Result<Option<Self>> {
        let (client, events) = match Client::connect(&files.qmp()).await {
            Ok(connected) => connected,
            // No socket, or one that nobody holds: no QEMU.
            Err(QmpError::Connect { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let uuid = client.uuid().await?;
        ensure!(uuid == config.uuid, "{} belongs to another machine ({uuid})", files.qmp().display());
        let pid = client.pid.context("the kernel does not say whose QEMU that is")?;
        let process = Process::adopt(pid).with_context(|| format!("cannot watch QEMU, process {pid}"))?;
        let start = memory.record().start.clone().context("a QEMU runs that nobody remembers to have started")?;
        tracing::info!(pid, "adopted the running machine");
        let hypervisor = Self { process, control: Some((client, events)), files: files.clone(), start };
        // Whoever owned it before may have been about to end it.
        hypervisor.on_reboot(hypervisor.usual_reboot()).await;
        hypervisor.release().await?;
        Ok(Some(hypervisor))
    }

    /// Starts a new one.
    ///
    /// # Errors
    /// With what is missing, and what to do about it.
    pub(crate) async fn start(config: &VmConfig, files: &VmFiles, memory: &mut Memory) -> anyhow::Result<Self> {
        if let Some(refusal) = capacity::refusal(config.memory) {
            bail!(refusal);
        }
        let (accelerator, reason) = choose_accelerator().await?;
        let firmware = firmware::prepare(config.firmware, config.secure_boot.as_ref(), files)?;
        disk::prepare(&config.disks, files)?;
        let ports = ports::open(config).await?;
        let spec = VmSpec::of(config);
        let links = ports.iter().map(|port| port.link.clone()).collect();
        let start = Start { spec, accelerator, reason, links, at_ms: now_ms(), reset_ms: 0 };
        memory.change(|record| record.start = Some(start.clone()))?;
        let place = |taps| Placement { accelerator, firmware, taps, files: files.clone() };
        let tpm = if start.spec.tpm { Some(tpm::start(files).await?) } else { None };
        let launched = launch(&start.spec, &ports, files, place);
        let started = match launched {
            Ok(process) => Self { process, control: None, files: files.clone(), start }.answering().await,
            Err(error) => Err(error),
        };
        // It ends with QEMU, by itself; without QEMU it would wait for ever.
        if let Some(tpm) = tpm {
            keep_until_end(tpm, started.is_err());
        }
        let hypervisor = started?;
        let accelerator = hypervisor.start.accelerator;
        tracing::info!(pid = hypervisor.pid(), %accelerator, "started the machine");
        Ok(hypervisor)
    }

    /// Waits until it answers; one that does not is ended.
    async fn answering(mut self) -> anyhow::Result<Self> {
        if let Err(error) = self.await_control().await {
            self.process.kill();
            // Reaped, and its lock on the state is gone, before anybody tries again.
            self.process.exited().await;
            return Err(error);
        }
        Ok(self)
    }

    /// Waits until a new QEMU answers, and lets the guest run.
    async fn await_control(&mut self) -> anyhow::Result<()> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            match Client::connect(&self.files.qmp()).await {
                // A QEMU that holds the state already keeps the socket until the new one gives up.
                Ok((client, events)) if client.pid == i32::try_from(self.pid()).ok() => {
                    self.control = Some((client, events));
                    self.on_reboot(self.usual_reboot()).await;
                    return self.release().await;
                }
                _ if self.process.has_ended() => bail!(self.obituary()),
                _ if Instant::now() > limit => {
                    bail!("QEMU does not answer {} s after its start: {}", START_LIMIT.as_secs(), self.messages())
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    /// Lets a guest run that has been waiting since its start.
    async fn release(&self) -> anyhow::Result<()> {
        if self.status().await? == "prelaunch" {
            self.command("cont").await?;
        }
        Ok(())
    }

    /// Ends a QEMU of this machine that does not answer, if there is one.
    pub(crate) fn put_down(uuid: &str, files: &VmFiles) {
        let pid = fs_err::read_to_string(files.pid()).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let Some(pid) = pid else { return };
        // Watched first, looked at second: if the number went to another process in between, the arguments say so.
        let process = Process::adopt(pid);
        let arguments = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|argument| argument == uuid.as_bytes())
            && let Ok(process) = process
        {
            tracing::warn!(pid, "killing a QEMU that does not answer");
            process.kill();
        }
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it was started.
    pub(crate) fn started_with(&self) -> &Start {
        &self.start
    }

    /// QEMU's word for the guest's state.
    pub(crate) async fn status(&self) -> anyhow::Result<String> {
        let (client, _) = self.control.as_ref().context("QEMU does not answer")?;
        Ok(client.status().await?)
    }

    /// Gives a command without arguments.
    pub(crate) async fn command(&self, name: &str) -> anyhow::Result<()> {
        let (client, _) = self.control.as_ref().context("QEMU does not answer")?;
        client.execute(name, None).await?;
        Ok(())
    }

    /// What a reboot of the guest does unless something else is wanted.
    ///
    /// An emulated one gets a new QEMU. QEMU 7.2 keeps what it has translated when a guest is reset, and looks through all of a
    /// page's translations whenever the guest writes there (`page_collection_lock` in `accel/tcg/translate-all.c`). Where the
    /// firmware's stack comes to lie in what was a busy page of the guest's, the firmware's timer interrupt takes longer than
    /// the time between two: it never gets any further.
    pub(crate) fn usual_reboot(&self) -> OnReboot {
        match self.start.accelerator {
            Accelerator::Kvm => OnReboot::Reset,
            Accelerator::Tcg => OnReboot::Shutdown,
        }
    }

    /// Says what a reboot of the guest does from now on.
    pub(crate) async fn on_reboot(&self, action: OnReboot) {
        let Some((client, _)) = &self.control else { return };
        if let Err(error) = client.on_reboot(action).await {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(%error, cause, "QEMU keeps what it does at a reboot");
        }
    }

    /// Presses the power button, for guests that have somebody who listens to it.
    pub(crate) async fn press_power_button(&self) {
        self.press("power button", Client::press_power_button).await;
    }

    /// Presses Ctrl-Alt-Delete, for all others.
    pub(crate) async fn press_ctrl_alt_delete(&self) {
        self.press("Ctrl-Alt-Delete", Client::press_ctrl_alt_delete).await;
    }

    async fn press(&self, what: &str, key: impl AsyncFnOnce(&Client) -> Result<(), QmpError>) {
        let Some((client, _)) = &self.control else { return };
        if let Err(error) = key(client).await {
            tracing::warn!(%error, what, "cannot press a key of the guest's");
        }
    }

    /// Notes that the guest was reset.
    pub(crate) fn was_reset(&mut self, memory: &mut Memory) -> anyhow::Result<()> {
        self.start.reset_ms = now_ms();
        let start = self.start.clone();
        memory.change(|record| record.start = Some(start))
    }

    /// Ends QEMU at once.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Waits for what happens next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Happening {
        tokio::select! {
            // What QEMU said last comes before its end.
            biased;
            happening = next_event(&mut self.control, &self.files) => happening,
            status = self.process.exited() => Happening::Ended(status),
        }
    }

    /// Why it ended, as far as it can be known.
    pub(crate) fn obituary(&self) -> anyhow::Error {
        let messages = self.messages();
        match messages.as_str() {
            "" => anyhow!("QEMU ended without a word: was it killed, or is the host out of memory?"),
            _ if messages.contains("PID file") => anyhow!(
                "another QEMU runs this machine and does not answer (its process id is in {}): {messages}",
                self.files.pid().display()
            ),
            _ => anyhow!("QEMU ended: {messages}"),
        }
    }

    fn messages(&self) -> String {
        last_messages(&self.files.messages(), 3)
    }
}

async fn next_event(control: &mut Option<(Client, Events)>, files: &VmFiles) -> Happening {
    if let Some((_, events)) = control {
        if let Some(event) = events.recv().await {
            return Happening::Event(event);
        }
        *control = None;
    }
    loop {
        sleep(RECONNECT).await;
        if let Ok(connected) = Client::connect(&files.qmp()).await {
            *control = Some(connected);
            return Happening::Reconnected;
        }
    }
}

/// Reaps a process of ours when it ends.
fn keep_until_end(mut process: Process, ends_now: bool) {
    if ends_now {
        process.kill();
    }
    tokio::spawn(async move { process.exited().await });
}

fn launch(
    spec: &VmSpec,
    ports: &[Port],
    files: &VmFiles,
    place: impl FnOnce(Vec<Tap>) -> Placement,
) -> anyhow::Result<Process> {
    let descriptors: Vec<_> = ports.iter().map(|port| port.descriptor.as_fd()).collect();
    let process = spawn(qemu::PROGRAM, &descriptors, &files.messages(), |numbers| {
        let taps = numbers.iter().zip(ports).map(|(fd, port)| Tap { fd: *fd, mtu: port.mtu }).collect();
        qemu::arguments(spec, &place(taps))
    })?;
    Ok(process)
}

async fn choose_accelerator() -> anyhow::Result<(Accelerator, String)> {
    let verdict = tokio::task::spawn_blocking(probe::probe).await.context("the KVM probe failed")?;
    Ok(match verdict {
        Ok(()) => (Accelerator::Kvm, "/dev/kvm runs a guest".to_owned()),
        Err(unusable) => (Accelerator::Tcg, unusable.to_string()),
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_accelerator_comes_with_a_reason() {
        let (_, reason) = choose_accelerator().await.unwrap();
        assert!(reason.contains("/dev/kvm"), "{reason}");
    }
}
