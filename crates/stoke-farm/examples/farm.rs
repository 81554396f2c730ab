//! The role as a program of its own, as the tests start and kill it: `farm CONFIG SOCKET`.

use stoke_daemon::Launch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    stoke_daemon::init_tracing();
    let mut arguments = std::env::args_os().skip(1);
    let (Some(config), Some(socket)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: farm CONFIG SOCKET");
    };
    stoke_farm::run(Launch { config: config.into(), socket: socket.into() }).await
}
