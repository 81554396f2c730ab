//! `stoke forward`: local ports to ports of a machine on its LAN, each connection through the LAN's router.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use stoke_api::{AnyObject, Kind};
use stoke_kube::client::Cluster;
use tokio::net::TcpListener;

use super::explained;
use crate::cli::{Forward, references};
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(cluster: Cluster, forward: &Forward) -> anyhow::Result<ExitCode> {
    let namespace = forward.namespace.as_ref().unwrap_or(cluster.namespace());
    let found = references(std::slice::from_ref(&forward.name), Some(Kind::Machine), namespace)?;
    let reference = found.first().ok_or_else(|| Failure::plain("no machine is named"))?;
    let pairs = forward.ports.iter().map(|ports| parse(ports)).collect::<anyhow::Result<Vec<_>>>()?;
    let object = cluster.object(reference).await.map_err(explained)?;
    if let Some(port) = forward.stdio {
        return stdio(&cluster, &object, port).await;
    }
    let (cluster, object) = (Arc::new(cluster), Arc::new(object));
    let mut listeners = Vec::new();
    for (local, there) in pairs {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await;
        let listener = listener.with_context(|| format!("cannot listen on 127.0.0.1:{local}"))?;
        output::print(&format!("{} -> {reference} port {there}\n", listener.local_addr()?))?;
        listeners.push(tokio::spawn(serve(listener, there, cluster.clone(), object.clone())));
    }
    for listener in listeners {
        listener.await.context("a listener failed")??;
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(listener: TcpListener, port: u16, cluster: Arc<Cluster>, object: Arc<AnyObject>) -> anyhow::Result<()> {
    loop {
        let (mut near, _) = listener.accept().await.context("cannot accept a connection")?;
        let (cluster, object) = (cluster.clone(), object.clone());
        tokio::spawn(async move {
            match cluster.dial(&object, port).await {
                // Either end may go away: that is the end of the connection.
                Ok(mut far) => drop(tokio::io::copy_bidirectional(&mut near, &mut far).await),
                Err(error) => eprintln!("error: {:#}", explained(error)),
            }
        });
    }
}

/// One connection on standard input and output, as ssh's `ProxyCommand` wants it.
async fn stdio(cluster: &Cluster, object: &AnyObject, port: u16) -> anyhow::Result<ExitCode> {
    let far = cluster.dial(object, port).await.map_err(explained)?;
    let (mut read, mut write) = tokio::io::split(far);
    let sent = tokio::spawn(async move {
        let sent = tokio::io::copy(&mut tokio::io::stdin(), &mut write).await;
        // The other side sees the end of the input, and may still answer.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        sent
    });
    let mut stdout = tokio::io::stdout();
    let received = tokio::io::copy(&mut read, &mut stdout).await;
    tokio::io::AsyncWriteExt::flush(&mut stdout).await?;
    sent.abort();
    received.context("the connection broke")?;
    // Standard input may still be read, by a thread that nobody can end.
    std::process::exit(0)
}

/// `8022:22`, or `22`.
fn parse(ports: &str) -> anyhow::Result<(u16, u16)> {
    let wrong = || Failure::usage(format!("{ports:?} is no port"), "write PORT or LOCAL:PORT, for example 8022:22");
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (local, there) = match ports.split_once(':') {
        Some((local, there)) => (number(local)?, number(there)?),
        None => (number(ports)?, number(ports)?),
    };
    if there == 0 { Err(wrong()) } else { Ok((local, there)) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ports_are_read() {
        assert_eq!(parse("22").unwrap(), (22, 22));
        assert_eq!(parse("8022:22").unwrap(), (8022, 22));
        assert_eq!(parse("0:22").unwrap(), (0, 22));
        for wrong in ["", "0", "x", "22:", "70000", "1:2:3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
