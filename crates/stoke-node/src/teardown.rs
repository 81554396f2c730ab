//! The end of an installation on this host.

use std::path::Path;

use anyhow::Context as _;
use stoke_net::kernel::{HostNamespace, KernelLinks};
use stoke_net::{Installation, Links, plan};

use crate::namespaces;

/// Removes all that is the installation's from its namespace, if anybody keeps it, and gives uplinks back to the host: for
/// when no agent runs that could be told `POST /teardown`, and after it was. Ends the holder. As an ordinary user that is
/// all there is to do: nothing of the host was taken, and a namespace goes with its last process.
///
/// # Errors
/// All that could not be removed.
pub fn teardown(run_dir: &Path, installation: &str) -> Result<(), Vec<String>> {
    let installation: Installation = installation.parse().map_err(|error| vec![format!("{error}")])?;
    let mut errors = Vec::new();
    if rustix::process::geteuid().is_root() && namespaces::is_of_root(run_dir) {
        let run_dir = run_dir.to_owned();
        // A thread of its own: it is the one that changes its network namespace.
        let inside = std::thread::spawn(move || from_inside(&run_dir, &installation));
        errors = inside.join().unwrap_or_else(|_| vec!["the thread that removes links has crashed".to_owned()]);
    }
    errors.extend(namespaces::forget(run_dir).err().map(|error| format!("cannot forget the namespace: {error}")));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn from_inside(run_dir: &Path, installation: &Installation) -> Vec<String> {
    let links = || -> anyhow::Result<Option<KernelLinks>> {
        let host = HostNamespace::of_this_thread().context("cannot hold on to the host's namespace")?;
        match namespaces::enter(&run_dir.join(namespaces::LINK)) {
            // Nobody keeps it: the kernel has removed its links, and moved interfaces of the host back.
            Err(namespaces::NamespaceError::Gone(_)) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(Some(KernelLinks::open(Some(host))?)),
        }
    };
    match links() {
        Ok(Some(mut links)) => remove_all(&mut links, installation),
        Ok(None) => Vec::new(),
        Err(error) => vec![format!("{error:#}")],
    }
}

/// Removes all that is ours, going on past errors; they are what is given back. A link may go by itself in the meantime:
/// what cannot be removed is looked for again.
pub(crate) fn remove_all<L: Links>(links: &mut L, installation: &Installation) -> Vec<String> {
    let errors = remove_once(links, installation);
    if errors.is_empty() { errors } else { remove_once(links, installation) }
}

fn remove_once<L: Links>(links: &mut L, installation: &Installation) -> Vec<String> {
    let observed = match links.observe(installation) {
        Ok(observed) => observed,
        Err(error) => return vec![format!("{:#}", anyhow::Error::new(error))],
    };
    let steps = plan::teardown(installation, &observed);
    let errors = stoke_net::apply::apply_all(links, &steps).err().unwrap_or_default();
    errors.into_iter().map(|error| format!("{:#}", anyhow::Error::new(error))).collect()
}
