//! What `stoke` does for the node role and the way out, alone, for this crate's tests:
//! `agent node RUN_FOLDER CONFIG SOCKET`, `agent pasta RUN_FOLDER`, and `agent member RUN_FOLDER`, which is inside as a
//! router is, and says so.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::Context as _;

const USAGE: &str = "usage: agent node RUN_FOLDER CONFIG SOCKET, or agent pasta|member RUN_FOLDER";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().map(PathBuf::from).context(USAGE);
    let (role, run_dir) = (next()?, next()?);
    if role.as_os_str() == "pasta" {
        let (dir, pid_file) = (run_dir.join("ns"), run_dir.join(stoke_node::egress::PID_FILE));
        return Err(stoke_node::egress::pasta_command(&dir, &pid_file)?.exec().into());
    }
    if role.as_os_str() == "member" {
        stoke_node::namespaces::enter(&run_dir.join("ns"))?;
        std::io::stdout().write_all(b"inside\n")?;
        // Ends with the test: killed, or by the end of its input.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let (config, socket) = (next()?, next()?);
    // While there is one thread: a user namespace cannot be joined later.
    stoke_node::namespaces::prepare(&run_dir)?;
    stoke_daemon::init_tracing();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(stoke_node::run(stoke_daemon::Launch { config, socket }))
}
