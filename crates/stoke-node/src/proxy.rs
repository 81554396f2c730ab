//! The way into a LAN for people: an HTTP proxy (`CONNECT`, RFC 9110 section 9.3.6) on the loopback of the router's pod,
//! which the API server forwards to (pods/portforward). It dials addresses of the LAN and nothing else: not the cluster,
//! not the node, not the pod itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use stoke_api::agent::LAN_INTERFACE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Its port on 127.0.0.1.
pub const PORT: u16 = 9480;

/// Longest head of a request.
const HEAD_LIMIT: usize = 8192;
/// How long a client may take to say where to, and how long that may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 256;

/// Starts it in the background.
///
/// # Errors
/// If the port is taken.
pub async fn start() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).await;
    let listener = listener.with_context(|| format!("cannot listen on 127.0.0.1:{PORT}"))?;
    tokio::spawn(serve(listener, lan_networks));
    Ok(())
}

/// The LAN as it is at this moment.
fn lan_networks() -> Vec<IpNet> {
    let interface = LAN_INTERFACE.parse().ok();
    let addresses = interface.and_then(|interface| stoke_net::kernel::addresses(&interface).ok());
    addresses.unwrap_or_default().into_iter().collect()
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, networks: fn() -> Vec<IpNet>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (place, accepted) = (Arc::clone(&places).acquire_owned().await, listener.accept().await);
        let (Ok(place), Ok((stream, _))) = (place, accepted) else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(async move {
            if let Err(error) = attend(stream, networks).await {
                tracing::debug!("a connection through the proxy ended: {error:#}");
            }
            drop(place);
        });
    }
}

async fn attend(mut client: TcpStream, networks: fn() -> Vec<IpNet>) -> anyhow::Result<()> {
    let head = timeout(PATIENCE, read_head(&mut client)).await.context("the client did not say where to")??;
    let networks = tokio::task::spawn_blocking(networks).await?;
    let target = match target(&head, &networks) {
        Ok(target) => target,
        Err((status, why)) => return refuse(&mut client, status, why).await,
    };
    let mut machine = match timeout(PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(machine)) => machine,
        Ok(Err(error)) => return refuse(&mut client, "502 Bad Gateway", &format!("{target}: {error}")).await,
        Err(_) => return refuse(&mut client, "504 Gateway Timeout", &format!("{target} does not answer")).await,
    };
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut machine).await?;
    Ok(())
}

/// Byte by byte: what comes after the head is for the machine.
async fn read_head(client: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < HEAD_LIMIT, "the request is too long");
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}

async fn refuse(client: &mut TcpStream, status: &str, why: &str) -> anyhow::Result<()> {
    let length = why.len() + 1;
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{why}\n");
    client.write_all(answer.as_bytes()).await?;
    Ok(())
}

/// Where the request wants to.
fn target(head: &str, networks: &[IpNet]) -> Result<SocketAddr, (&'static str, &'static str)> {
    let mut words = head.split_ascii_whitespace();
    if words.next() != Some("CONNECT") {
        return Err(("405 Method Not Allowed", "this proxy knows CONNECT ADDRESS:PORT only"));
    }
    let target = words.next().and_then(|word| word.parse::<SocketAddr>().ok());
    let target = target.ok_or(("400 Bad Request", "write ADDRESS:PORT with an address of the lan"))?;
    if is_of_lan(target.ip(), networks) { Ok(target) } else { Err(("403 Forbidden", "this address is not of the lan")) }
}

/// Stations of the LAN, but not the router itself.
fn is_of_lan(address: IpAddr, networks: &[IpNet]) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let own = networks.iter().any(|network| network.addr() == address);
    !link_local && !own && networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stations_of_the_lan_are_dialled() {
        let networks =
            ["10.10.0.1/24".parse().unwrap(), "fe80::1/64".parse().unwrap(), "fd00:10::1/64".parse().unwrap()];
        let head = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        for good in ["10.10.0.9:22", "[fd00:10::9]:22"] {
            assert_eq!(target(&head(good), &networks).unwrap().to_string(), good);
        }
        for bad in ["10.10.0.1:22", "10.10.1.9:22", "127.0.0.1:9480", "[fe80::9]:22", "[::1]:22", "169.254.169.254:80"]
        {
            assert_eq!(target(&head(bad), &networks).unwrap_err().0, "403 Forbidden", "{bad}");
        }
        for bad in ["node-1:22", "10.10.0.9", "", "[::ffff:10.10.0.9]"] {
            assert_eq!(target(&head(bad), &networks).unwrap_err().0, "400 Bad Request", "{bad}");
        }
        assert_eq!(target("GET / HTTP/1.1\r\n\r\n", &networks).unwrap_err().0, "405 Method Not Allowed");
    }

    #[tokio::test]
    async fn bytes_go_both_ways() {
        let machine = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = machine.local_addr().unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = proxy.local_addr().unwrap();
        tokio::spawn(serve(proxy, || vec!["127.0.0.9/8".parse().unwrap()]));
        let mut client = TcpStream::connect(to).await.unwrap();
        client.write_all(format!("CONNECT {at} HTTP/1.1\r\n\r\nhello").as_bytes()).await.unwrap();
        let (mut machine, _) = machine.accept().await.unwrap();
        let mut heard = [0; 5];
        machine.read_exact(&mut heard).await.unwrap();
        machine.write_all(b"there").await.unwrap();
        drop(machine);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((&heard, answer.as_str()), (b"hello", "HTTP/1.1 200 Connected\r\n\r\nthere"));
    }
}
