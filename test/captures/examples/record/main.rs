//! Records conversations anew: `cargo run -p captures --example record [NAME…]`, all of them without a name.
//!
//! Needs root, the programs under test in `STOKE_PROGRAMS`, and the Debian packages tcpdump, dnsmasq-base, udhcpc,
//! isc-dhcp-client, dhcpcd-base and systemd besides those of the end-to-end tests.

mod peers;
mod session;

use anyhow::{Result, bail};

use crate::peers::peers;

fn main() -> Result<()> {
    let wanted = std::env::args().skip(1).collect::<Vec<_>>();
    let known = peers();
    if let Some(unknown) = wanted.iter().find(|name| known.iter().all(|peer| peer.name != name.as_str())) {
        let names = known.iter().map(|peer| peer.name).collect::<Vec<_>>().join(", ");
        bail!("nobody is called {unknown:?}; there are {names}");
    }
    let mut failed = Vec::new();
    for peer in known.iter().filter(|peer| wanted.is_empty() || wanted.iter().any(|name| name == peer.name)) {
        match session::record(peer) {
            Ok(path) => println!("{}", path.display()),
            Err(error) => {
                eprintln!("{}: {error:#}", peer.name);
                failed.push(peer.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("not recorded: {}", failed.join(", "));
    }
    Ok(())
}
