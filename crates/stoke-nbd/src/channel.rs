//! The way to a client: its socket, bare or inside of TLS. Calls block, but not for long.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use rustls::{ServerConfig, ServerConnection};

use crate::image::Image;

/// How long a thread stays with a client that may ask for more any moment: as long as threads are plenty, and else.
const LINGER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(5)];
/// How long a thread waits for a client that does not take its answers, likewise.
const PUSH: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(5)];
/// A client that answers none of so many probes, so far apart, has lost its power: it never says goodbye.
const PROBES: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 6);
/// Bytes that are read from an image at once to be encrypted.
const PIECE: usize = 64 << 10;

/// The way to a client.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    linger: Duration,
}

impl Channel {
    /// Takes a socket over, which may be non-blocking.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let (time, interval, retries) = PROBES;
        let keepalive = socket2::TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let mut channel = Self { stream, tls: None, linger: Duration::ZERO };
        channel.linger(false)?;
        Ok(channel)
    }

    /// Goes on inside of TLS. The handshake is part of the next receiving.
    pub(crate) fn start_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        self.tls = Some(Box::new(ServerConnection::new(config).map_err(io::Error::other)?));
        Ok(())
    }

    /// How long calls wait, depending on whether threads are scarce.
    pub(crate) fn linger(&mut self, scarce: bool) -> io::Result<()> {
        let choose = |[long, short]: [Duration; 2]| if scarce { short } else { long };
        let linger = choose(LINGER);
        if self.linger != linger {
            self.stream.set_read_timeout(Some(linger))?;
            self.stream.set_write_timeout(Some(choose(PUSH)))?;
            self.linger = linger;
        }
        Ok(())
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Receives something, at most as much as fits: 0 at the end. `WouldBlock` if there is nothing, right now or, with
    /// patience, for a moment.
    pub(crate) fn receive(&mut self, into: &mut [u8], patience: bool) -> io::Result<usize> {
        let flags = if patience { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let Some(tls) = &mut self.tls else {
            return Ok(rustix::net::recv(&self.stream, into, flags)?.0);
        };
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            if tls.read_tls(&mut Waiting { stream: &self.stream, flags })? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            // Also what says why not.
            while tls.wants_write() {
                tls.write_tls(&mut &self.stream)?;
            }
            processed.map_err(io::Error::other)?;
        }
    }

    /// Sends something of it, more being about to follow or not. `WouldBlock` if the client takes nothing.
    pub(crate) fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let flags = if more { SendFlags::MORE } else { SendFlags::empty() };
            return Ok(rustix::net::send(&self.stream, bytes, flags | SendFlags::NOSIGNAL)?);
        };
        drain(tls, &self.stream)?;
        let taken = tls.writer().write(bytes)?;
        match drain(tls, &self.stream) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(taken),
            done => done.map(|()| taken),
        }
    }

    /// Sends a piece of an image, of at most `left` bytes. `WouldBlock` if the client takes nothing.
    pub(crate) fn send_file(&mut self, image: &Image, offset: u64, left: usize) -> io::Result<usize> {
        if self.tls.is_some() {
            let mut piece = vec![0; left.min(PIECE)];
            image.read(&mut piece, offset)?;
            return self.send(&piece, false);
        }
        let mut at = offset;
        match rustix::fs::sendfile(&self.stream, image.file(), Some(&mut at), left)? {
            0 if left > 0 => Err(ErrorKind::UnexpectedEof.into()),
            sent => Ok(sent),
        }
    }

    /// Sends what waits inside of us.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| drain(tls, &self.stream))
    }
}

fn drain(tls: &mut ServerConnection, mut stream: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut stream)?;
    }
    stream.flush()
}

/// A socket that is read with flags.
struct Waiting<'a> {
    stream: &'a TcpStream,
    flags: RecvFlags,
}

impl io::Read for Waiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.stream, buffer, self.flags)?.0)
    }
}
