//! What the kernel and its fake have in common, and what only the kernel does. Needs root: each test makes a network
//! namespace of its own, for its thread.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod cluster;
mod kernel;
mod suite;

use stoke_api::workload::LanPlan;
use stoke_net::wanted::{Lan, Wanted};

/// Runs a test in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        stoke_sys::namespace::unshare_network().expect("network namespaces need root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn lan(name: &str, number: u8, uplinks: &[&str]) -> Lan {
    let plan = serde_json::json!({
        "lan": {"kind": "Lan", "namespace": "default", "name": name}, "bridge": format!("{name}0"),
        "mac": format!("52:54:00:aa:00:{number:02x}"), "mtu": 1450, "addresses": [format!("10.10.{number}.1/24")],
        "address6": format!("fd00:{number}::1/64"),
        "masquerade": true, "uplinks": uplinks
    });
    Lan::from(&serde_json::from_value::<LanPlan>(plan).expect("a plan"))
}

fn wanted(lans: Vec<Lan>) -> Wanted {
    let installation = "0a1b2c3d".parse().expect("an installation");
    Wanted { installation, lans, way_out: "out".parse().expect("a name") }
}
