//! OCI verbs and their state: a configuration of the runtime specification as a container of liblxc.
//!
//! How a container comes to be:
//!
//! ```text
//!  create ---- fork ----> monitor: liblxc --- clone ---> first process of the container
//!    |                      (namespaces, id maps)             |  executes this program again, from sealed memory
//!    | <---------------------------- hello -----------------+
//!    |  kills the monitor: from now on the caller of `create` is the parent of the first process
//!    |  limits, hooks of the runtime's namespace
//!    | ------------------------------ go ------------------>|  mounts, devices, hooks, new root  (module init)
//!    | <---------------------------- ready -----------------+
//!    |  status "created"                                    |  waits at a socket
//!  start ---------------------------- go ------------------>|  capabilities, filters; executes what was asked for
//! ```
//!
//! So nothing of ours or of liblxc's stays beside a running container, and whoever called `create` (conmon, a shim) sees its
//! end exactly as the kernel tells it.
//!
//! - [`verbs`] are what callers ask for. Read [`mod@verbs::create`] first.
//! - [`spec`] is `config.json`; [`check`] says what of it is refused; [`lxc`] is what liblxc is told, pure.
//! - [`init`] is all that happens in the container's first process, and in one that `exec` adds.
//! - [`cgroup`] plans and applies limits; [`state`] is what is remembered of a container.
//!
//! What this crate never does: print, parse arguments, or keep a process running.

pub mod cgroup;
pub mod check;
pub mod error;
pub mod hooks;
pub mod init;
pub mod lxc;
pub mod namespaces;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod verbs;
pub mod wire;

pub use error::{Error, Result};
