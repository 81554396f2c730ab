//! The way out: from a machine on the LAN, masqueraded in the namespace, through pasta to the host's network.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::host::{Agent, HOST, User, ip, on_a_host};

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs something as a machine on the LAN: a network namespace with a veth to the bridge.
fn on_a_machine<T: Send + 'static>(agent: &Agent, action: impl FnOnce() -> T + Send + 'static) -> T {
    agent.inside(|| {
        ip("link add port0 type veth peer name eth0");
        ip("link set port0 master lab0 up");
        let (moved, wait) = std::sync::mpsc::channel();
        let (thread_id, id) = std::sync::mpsc::channel();
        let machine = std::thread::spawn(move || {
            stoke_sys::namespace::unshare_network().unwrap();
            thread_id.send(rustix::thread::gettid()).unwrap();
            wait.recv().unwrap();
            ip("address add 10.10.0.77/24 dev eth0");
            ip("link set eth0 up");
            ip("route add default via 10.10.0.1");
            action()
        });
        ip(&format!("link set eth0 netns {}", id.recv().unwrap().as_raw_nonzero()));
        moved.send(()).unwrap();
        machine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn leads_out(user: User) {
    on_a_host(move || {
        let mut agent = Agent::start(user, &[]);
        assert!(agent.report().egress_failure.is_some());
        agent.open_the_way_out();
        let server = TcpListener::bind((HOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let greeter = std::thread::spawn(move || {
            let (mut stream, peer) = server.accept().unwrap();
            std::io::Write::write_all(&mut stream, b"hello").unwrap();
            peer.ip()
        });
        let greeting = on_a_machine(&agent, move || {
            let mut text = String::new();
            let mut stream = TcpStream::connect_timeout(&(HOST, port).into(), PATIENCE).unwrap();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!((greeting.as_str(), greeter.join().unwrap()), ("hello", HOST.into()));
        datagrams_get_out(&agent);
        loopback_stays_closed(&agent);
    });
}

fn datagrams_get_out(agent: &Agent) {
    let server = UdpSocket::bind((HOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let mut datagram = [0; 64];
        let (length, from) = server.recv_from(&mut datagram).unwrap();
        server.send_to(&datagram[..length], from).unwrap();
    });
    let answer = agent.inside(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"ping", (HOST, port)).unwrap();
        let mut datagram = [0; 64];
        let length = socket.recv(&mut datagram).unwrap();
        datagram[..length].to_vec()
    });
    assert_eq!(answer, b"ping");
    echo.join().unwrap();
}

/// What listens on the host's loopback alone must not be reached by way of pasta's gateway address.
fn loopback_stays_closed(agent: &Agent) {
    let private = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = private.local_addr().unwrap().port();
    let gateway = stoke_node::egress::GATEWAY;
    let reached = agent.inside(move || TcpStream::connect_timeout(&(gateway, port).into(), Duration::from_millis(500)));
    assert!(reached.is_err());
}

/// As on a host with systemd-resolved, whose stub only the host itself can ask.
fn a_resolver_on_loopback_answers(user: User) {
    on_a_host(move || {
        let mut agent = Agent::start(user, &[]);
        agent.open_the_way_out_with("nameserver 127.0.0.53\n");
        let server = UdpSocket::bind(("127.0.0.53", 53)).unwrap();
        let resolver = std::thread::spawn(move || {
            let mut question = [0; 64];
            let (length, from) = server.recv_from(&mut question).unwrap();
            server.send_to(b"an answer", from).unwrap();
            question[..length].to_vec()
        });
        let answer = agent.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"a question", (stoke_node::egress::DNS, 53)).unwrap();
            let mut datagram = [0; 64];
            let length = socket.recv(&mut datagram).unwrap();
            datagram[..length].to_vec()
        });
        assert_eq!((answer.as_slice(), resolver.join().unwrap().as_slice()), (&b"an answer"[..], &b"a question"[..]));
    });
}

#[test]
fn a_resolver_on_roots_loopback_answers() {
    a_resolver_on_loopback_answers(User::Root);
}

#[test]
fn a_resolver_on_an_ordinary_users_loopback_answers() {
    a_resolver_on_loopback_answers(User::Ordinary);
}

#[test]
fn a_machine_of_root_gets_out() {
    leads_out(User::Root);
}

#[test]
fn a_machine_of_an_ordinary_user_gets_out() {
    leads_out(User::Ordinary);
}
