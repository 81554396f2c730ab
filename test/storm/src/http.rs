//! HTTP/1.1 over a connection that is kept, plain or in TLS: as much of it as firmware and `stoke-init` use.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(40);
const PIECE: usize = 128 << 10;

trait Both: Read + Write + Send {}

impl<T: Read + Write + Send> Both for T {}

/// A connection.
pub(crate) struct Connection {
    stream: BufReader<Box<dyn Both>>,
    host: SocketAddr,
}

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: u64,
    /// Seconds after which to ask again.
    pub(crate) retry_after: Option<u64>,
}

/// Connects from one of the machines' addresses.
pub(crate) fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), CONNECT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Host and path of a plain URL.
pub(crate) fn parts(url: &str) -> Result<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).context("no HTTP URL")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let port = if url.starts_with("https") { 443 } else { 80 };
    let host = host.parse().or_else(|_| format!("{host}:{port}").parse()).with_context(|| format!("host of {url}"))?;
    Ok((host, path))
}

impl Connection {
    /// Connects, in TLS if there is a configuration for it.
    pub(crate) fn open(from: Ipv4Addr, host: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let stream = connect(from, host).with_context(|| format!("connect to {host}"))?;
        let stream: Box<dyn Both> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let session = ClientConnection::new(Arc::clone(config), ServerName::from(host.ip()))?;
                Box::new(StreamOwned::new(session, stream))
            }
        };
        Ok(Self { stream: BufReader::with_capacity(PIECE, stream), host })
    }

    /// Asks, and reads the answer's head; its body is to be read next.
    pub(crate) fn ask(&mut self, method: &str, path: &str, more: &str, body: &[u8]) -> Result<Head> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {length}\r\n{more}\r\n", self.host);
        let stream = self.stream.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat())?;
        stream.flush()?;
        self.head()
    }

    fn head(&mut self) -> Result<Head> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut head = Head { status: status.with_context(|| format!("no HTTP: {line:?}"))?, ..Head::default() };
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.trim().parse()?,
                "retry-after" => head.retry_after = value.trim().parse().ok(),
                "transfer-encoding" => bail!("firmware cannot read {}", value.trim()),
                _ => {}
            }
        }
        Ok(head)
    }

    /// Reads a body in pieces.
    pub(crate) fn body(&mut self, length: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let there = self.stream.fill_buf()?;
            if there.is_empty() {
                bail!("it ends {left} bytes too early");
            }
            let count = there.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            take(there.get(..count).unwrap_or_default())?;
            self.stream.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads a body as text.
    pub(crate) fn text(&mut self, length: u64) -> Result<String> {
        let mut bytes = Vec::new();
        self.body(length, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(String::from_utf8(bytes)?)
    }
}
