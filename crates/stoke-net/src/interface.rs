//! A pod's interface on a LAN: one end of a pair of links, whose other end is a port here.
//!
//! ```text
//!   LANs' namespace                      pod's namespace
//!   bridge ---- si-5e3a9c01 ============ lan0  10.10.0.1/24
//!               stokehold/ID/port …      stokehold/ID/port …
//! ```
//!
//! [`ensure`] may be called again and again: what is there is kept and put right. The pair goes when the pod's namespace
//! goes. What this module never does: touch an interface of the pod that is not the wanted one, keep a descriptor.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoke_api::names::LinkName;

use crate::kernel::{KernelError, KernelLinks};
use crate::label::{Installation, Label};
use crate::observed::{Link, Observed};
use crate::wanted::Lan;
use crate::{ApplyError, Links as _, Step, apply, names, plan};

/// An interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The LAN, seen from the pod: its "bridge" is the interface.
    pub lan: Lan,
    /// The label of both ends.
    pub label: Label,
    /// Where all else goes if the pod has no way out of its own.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the pod forwards: between the LAN's subnets, and out if the LAN masquerades.
    pub forwards: bool,
}

/// What came of [`ensure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// The port on this side.
    pub port: LinkName,
    /// What was done in the pod.
    pub steps: Vec<Step>,
    /// Whether the pod should be a way out and has none itself.
    pub no_way_out: bool,
}

/// Why a pod has no interface.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] ApplyError<KernelError>),
    /// The descriptor is of no network namespace.
    #[error("the descriptor that the pod sent is of no network namespace")]
    NoNamespace(#[source] std::io::Error),
    /// Something of somebody else has its name.
    #[error("the pod has an interface {0} that is not ours")]
    Foreign(LinkName),
    /// The thread that works in the pod has crashed.
    #[error("the thread that enters the pod has crashed")]
    Crashed,
}

/// Sees to it that the pod has the interface, with its addresses, up. The port is not yet attached if it is new: planning
/// its LAN again attaches it.
///
/// # Errors
/// If the system refuses, or the name is taken in the pod.
pub fn ensure(
    links: &mut KernelLinks,
    installation: &Installation,
    interface: &Interface,
    pod: BorrowedFd<'_>,
) -> Result<Ensured, InterfaceError> {
    let port = names::hashed("si-", &interface.label.to_string());
    let here = links.observe(installation)?;
    let there = inside(pod, |pod| Ok(pod.observe(installation)?))?;
    let ends = (here.links.get(&port), there.links.get(&interface.lan.bridge));
    if let (Some(_), Some(far)) = ends
        && is_ours(far, interface)
    {
        let unlabelled = here.links.get(&port).is_some_and(|link| link.label.as_ref() != Some(&interface.label));
        let label = unlabelled.then(|| Step::SetLabel { link: port.clone(), label: interface.label.clone() });
        apply(links, label.as_slice())?;
    } else {
        make_room(links, &port, ends, interface, pod)?;
        links.create_pair(&port, &interface.label, &interface.lan, pod)?;
    }
    let (steps, no_way_out) = inside(pod, |pod| settle(pod, installation, interface))?;
    Ok(Ensured { port, steps, no_way_out })
}

/// By its label, or because we died before it had one.
fn is_ours(far: &Link, interface: &Interface) -> bool {
    far.label.as_ref() == Some(&interface.label) || (far.label.is_none() && far.mac == interface.lan.mac)
}

/// Removes an end whose other end is not where it should be.
fn make_room(
    links: &mut KernelLinks,
    port: &LinkName,
    ends: (Option<&Link>, Option<&Link>),
    interface: &Interface,
    pod: BorrowedFd<'_>,
) -> Result<(), InterfaceError> {
    let name = &interface.lan.bridge;
    match ends {
        (_, Some(far)) if !is_ours(far, interface) => return Err(InterfaceError::Foreign(name.clone())),
        (_, Some(_)) => {
            let delete = Step::Delete { link: name.clone() };
            inside(pod, |pod| Ok(pod.execute(&delete)?))?;
        }
        (Some(_), None) => links.execute(&Step::Delete { link: port.clone() })?,
        (None, None) => {}
    }
    Ok(())
}

/// Puts right what is in the pod.
fn settle(
    pod: &mut KernelLinks,
    installation: &Installation,
    interface: &Interface,
) -> Result<(Vec<Step>, bool), InterfaceError> {
    let name = &interface.lan.bridge;
    let way_out = pod.way_out(name)?;
    let observed: Observed = pod.observe(installation)?;
    let mut steps = plan::interface(installation, interface, way_out.as_ref(), &observed);
    apply(pod, &steps)?;
    if let Some(gateway) = interface.gateway
        && !pod.leads_out(name)?
    {
        let step = Step::AddGateway { link: name.clone(), gateway };
        apply(pod, std::slice::from_ref(&step))?;
        steps.push(step);
    }
    Ok((steps, interface.lan.masquerade && way_out.is_none()))
}

/// Does something in the pod's namespace, by a thread of its own: it cannot come back by mistake with another one's rights.
fn inside<T: Send>(
    pod: BorrowedFd<'_>,
    action: impl FnOnce(&mut KernelLinks) -> Result<T, InterfaceError> + Send,
) -> Result<T, InterfaceError> {
    std::thread::scope(|scope| {
        let entered = move || {
            let moved = move_into_link_name_space(pod.as_fd(), Some(LinkNameSpaceType::Network));
            moved.map_err(|error| InterfaceError::NoNamespace(error.into()))?;
            let links = KernelLinks::open(None).map_err(KernelError::Refused);
            action(&mut links?)
        };
        scope.spawn(entered).join().unwrap_or(Err(InterfaceError::Crashed))
    })
}
