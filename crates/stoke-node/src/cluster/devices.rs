//! Which devices of this node can be used.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use stoke_api::agent::DeviceVerdict;
use stoke_vmm::probe::Unusable;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::agent::Agent;
use crate::cluster::kvm::{self, DeviceFile, Seen};

/// How often is looked again: modules are loaded, permissions changed.
const INTERVAL: Duration = Duration::from_mins(1);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kvm: DeviceVerdict,
    pub(super) tun: DeviceVerdict,
    pub(super) vhost_net: DeviceVerdict,
    pub(super) vhost_vsock: DeviceVerdict,
}

/// Who wants to know.
pub(super) type Devices = watch::Sender<Found>;

/// Looks, now and again.
pub(super) async fn watch(agent: Arc<Agent>, shutdown: CancellationToken) {
    loop {
        let seen = kvm::probe(&agent.host).await;
        // Another thread: what hangs, hangs there. Its own TUN is what the agent makes ports with.
        let tun = tokio::task::spawn_blocking(|| OpenOptions::new().read(true).write(true).open(kvm::TUN).map(drop));
        if let Ok(tun) = tun.await {
            let found = find(seen, &tun);
            agent.devices.send_if_modified(|known| {
                let changed = *known != found;
                if changed {
                    tracing::info!(kvm = found.kvm.message, tun = found.tun.message, "devices of this node");
                    *known = found;
                }
                changed
            });
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn find(seen: anyhow::Result<Seen>, tun: &io::Result<()>) -> Found {
    let (seen, silent) = match seen {
        Ok(seen) => (seen, None),
        Err(error) => (Seen::default(), Some(not_usable("no-verdict", format!("{error:#}")))),
    };
    let file = |path: &str| seen.files.get(path);
    let kvm = silent.clone().unwrap_or_else(|| of_kvm(seen.kvm.as_ref(), file(kvm::KVM)));
    let vhost = |path: &str| silent.clone().unwrap_or_else(|| of_file(path, file(path)));
    Found {
        kvm,
        tun: of_tun(tun, file(kvm::TUN)),
        vhost_net: vhost(kvm::VHOST_NET),
        vhost_vsock: vhost(kvm::VHOST_VSOCK),
    }
}

fn of_kvm(unusable: Option<&Unusable>, file: Option<&DeviceFile>) -> DeviceVerdict {
    let Some(unusable) = unusable else { return usable("/dev/kvm runs a guest", file) };
    let reason = match unusable {
        Unusable::NoDevice => "no-device",
        Unusable::NoPermission => "no-permission",
        Unusable::Api(_) => "api",
        Unusable::CreateFailed(_) => "create-failed",
        Unusable::FailEntry(_) => "fail-entry",
        Unusable::Emulated(_) => "emulated",
        Unusable::Deadline => "deadline",
    };
    not_usable(reason, unusable.to_string())
}

fn of_tun(opened: &io::Result<()>, file: Option<&DeviceFile>) -> DeviceVerdict {
    match opened {
        Ok(()) => usable("/dev/net/tun opens", file),
        Err(error) => {
            let message = format!("/dev/net/tun does not open ({error}): load the module tun on this node");
            not_usable(reason(error), message)
        }
    }
}

fn of_file(path: &str, file: Option<&DeviceFile>) -> DeviceVerdict {
    match file.map(|file| file.refused.map(io::Error::from_raw_os_error)) {
        None => not_usable("no-device", format!("there is no {path}: load its module on this node")),
        Some(Some(error)) => not_usable(reason(&error), format!("{path} does not open: {error}")),
        Some(None) => usable(&format!("{path} opens"), file),
    }
}

fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "no-device",
        io::ErrorKind::PermissionDenied => "no-permission",
        _ => "refused",
    }
}

fn not_usable(reason: &str, message: String) -> DeviceVerdict {
    DeviceVerdict { usable: false, reason: reason.to_owned(), message, group: None }
}

/// A container gets the device with the owner and permissions that it has on the host.
fn usable(message: &str, file: Option<&DeviceFile>) -> DeviceVerdict {
    let message = match file.filter(|file| file.is_roots_alone()) {
        Some(file) => format!(
            "{message}; its permissions are {:o} and its group is {}: pods that are not root's open it only if the \
             runtime has `device_ownership_from_security_context`; or give it a group by a rule of udev",
            file.mode, file.group
        ),
        None => message.to_owned(),
    };
    let group = file.and_then(DeviceFile::needed_group);
    DeviceVerdict { usable: true, reason: "usable".to_owned(), message, group }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32, group: u32) -> DeviceFile {
        DeviceFile { refused: None, mode, group }
    }

    #[test]
    fn a_verdict_is_a_word_and_a_sentence() {
        let emulated = of_kvm(Some(&Unusable::Emulated("sse".to_owned())), None);
        assert_eq!((emulated.usable, emulated.reason.as_str()), (false, "emulated"));
        assert!(emulated.message.contains("a guest would crawl"));
        let missing = of_tun(&Err(io::ErrorKind::NotFound.into()), None);
        assert_eq!((missing.usable, missing.reason.as_str()), (false, "no-device"));
        assert!(of_tun(&Ok(()), None).usable);
        let gone = of_file("/dev/vhost-net", Some(&DeviceFile { refused: Some(19), ..file(0o660, 104) }));
        assert_eq!((gone.usable, gone.reason.as_str(), gone.group), (false, "refused", None));
    }

    #[test]
    fn who_is_not_root_is_told_the_group_that_may_open_a_device() {
        let group = |mode, group| of_kvm(None, Some(&file(mode, group))).group;
        assert_eq!(group(0o660, 104), Some(104));
        assert_eq!(group(0o666, 104), None, "everybody may");
        assert_eq!(group(0o640, 104), None, "the group may not write");
        assert_eq!(group(0o660, 0), None, "no pod of ours is in root's group");
        let roots = of_kvm(None, Some(&file(0o600, 0)));
        assert!(roots.usable && roots.message.contains("device_ownership_from_security_context"), "{roots:?}");
    }

    #[test]
    fn without_a_probe_nothing_is_offered_but_what_the_agent_opens_itself() {
        let found = find(Err(anyhow::anyhow!("it hangs")), &Ok(()));
        assert_eq!((found.kvm.usable, found.vhost_net.usable, found.tun.usable), (false, false, true));
    }
}
