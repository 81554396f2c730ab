//! How many descriptors this process may have. Each connection is one, and so is each file that is sent.

use rustix::process::{Resource, getrlimit};

/// Connections at once to one service, where descriptors are no limit.
const CONNECTIONS: u64 = 4096;
/// Services that share the descriptors, each with the files that it sends.
const SHARES: u64 = 4;

/// Connections at once to one service.
pub(crate) fn connections() -> usize {
    let most = getrlimit(Resource::Nofile).current.map_or(CONNECTIONS, |limit| CONNECTIONS.min(limit / SHARES));
    usize::try_from(most).unwrap_or(usize::MAX).max(1)
}
