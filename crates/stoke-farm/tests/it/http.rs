//! HTTP as it is spoken: by clients that hurry, that are old, that are slow, that mean harm.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use stoke_api::node::{Event, Manifest, Phase, Report};
use stoke_api::{Digest, MacAddr};

use crate::bed::{Bed, MAC, blob_path, must, node};
use crate::nodes::{hello, post};

/// How long an answer may take before a test gives up.
const LIMIT: Duration = Duration::from_mins(1);

fn connect(bed: &Bed) -> TcpStream {
    let stream = TcpStream::connect((bed.config.address, bed.config.http_port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: farm\r\n\r\n")
}

/// Reads one answer: its head in small letters, and its content.
fn answer(reader: &mut impl std::io::BufRead, has_content: bool) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the connection ended after {head:?}");
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length = length.map_or(0, |length| length.parse().unwrap());
    let mut content = vec![0; if has_content { length } else { 0 }];
    reader.read_exact(&mut content).unwrap();
    (head, content)
}

/// What comes until the farm ends the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn requests_that_come_together_are_answered_in_order_on_one_connection() {
    let bed = Bed::new();
    let image = &bed.config.images[0];
    let (kernel, root) = (blob_path(&image.kernel.digest), blob_path(&image.root.blob));
    let mut stream = connect(&bed);
    let script = get("/v1/boot.ipxe?mac=52:54:00:00:00:07");
    let part = format!("GET {root} HTTP/1.1\r\nHost: farm\r\nRange: bytes=1000000-1999999\r\n\r\n");
    let head = format!("HEAD {root} HTTP/1.1\r\nHost: farm\r\n\r\n");
    let last = format!("GET {kernel} HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n");
    let all = [script, get(&kernel), part, head, get("/nothing"), last, get("/after the end")].concat();
    stream.write_all(all.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let (_, script) = answer(&mut reader, true);
    assert!(script.starts_with(b"#!ipxe\n"), "{}", String::from_utf8_lossy(&script));
    assert_eq!(answer(&mut reader, true).1, crate::bed::pattern(100_001, 2));
    let (head, part) = answer(&mut reader, true);
    assert!(head.starts_with("http/1.1 206 partial content\r\n"), "{head}");
    assert!(head.contains(&format!("content-range: bytes 1000000-1999999/{}\r\n", bed.root.len())), "{head}");
    assert!(part == bed.root[1_000_000..2_000_000]);
    let (head, _) = answer(&mut reader, false);
    assert!(head.contains(&format!("content-length: {}\r\n", bed.root.len())) && head.contains("\r\ndate: "), "{head}");
    assert!(answer(&mut reader, true).0.starts_with("http/1.1 404 not found\r\n"));
    let (head, kernel) = answer(&mut reader, true);
    assert!(head.contains("\r\nconnection: close\r\n") && kernel.len() == 100_001, "{head}");
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "nothing is answered after the end");
}

#[test]
fn clients_of_http_1_0() {
    let bed = Bed::new();
    let path = blob_path(&bed.config.images[0].kernel.digest);
    let mut old = connect(&bed);
    write!(old, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut reader = BufReader::new(old);
    let (head, content) = answer(&mut reader, true);
    assert!(head.contains("\r\nconnection: close\r\n") && content.len() == 100_001, "{head}");
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    let mut reader = BufReader::new(connect(&bed));
    for _ in 0..2 {
        write!(reader.get_mut(), "GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let (head, content) = answer(&mut reader, true);
        assert!(head.contains("\r\nconnection: keep-alive\r\n") && content.len() == 100_001, "{head}");
    }
    // A client that has said everything still gets everything.
    let mut half = connect(&bed);
    half.write_all(get(&path).as_bytes()).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut BufReader::new(half), true).1.len(), 100_001);
}

#[test]
fn what_is_no_request_is_refused_and_ends_the_connection() {
    let bed = Bed::new();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(64 << 10));
    for (sent, status) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03 a TLS greeting\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/7.7\r\nHost: x\r\n\r\n", "505 HTTP Version Not Supported"),
        (long.as_str(), "431 Request Header Fields Too Large"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411 Length Required"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", "413 Payload Too Large"),
    ] {
        let mut stream = connect(&bed);
        stream.write_all(sent.as_bytes()).unwrap();
        let text = rest(stream);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{sent:.40?}: {text}");
        assert!(text.to_lowercase().contains("connection: close"), "{text}");
    }
}

#[test]
fn blobs_and_boot_programs_by_tls() {
    let bed = Bed::new();
    let ca = bed.config.certificate.to_str().unwrap();
    let base = format!("https://{}:{}", bed.config.address, bed.config.node_port);
    let to = bed.path("by-tls");
    let url = format!("{base}{}", blob_path(&bed.config.images[0].root.blob));
    must("curl", &["-sSf", "--cacert", ca, "-o", to.to_str().unwrap(), &url]);
    assert!(std::fs::read(&to).unwrap() == bed.root);
    must("curl", &["-sSf", "--cacert", ca, "-r", "100-2000099", "-o", to.to_str().unwrap(), &url]);
    assert!(std::fs::read(&to).unwrap() == bed.root[100..2_000_100]);
    let program = format!("{base}/v1/boot/snponly.efi");
    must("curl", &["-sSf", "--cacert", ca, "-o", to.to_str().unwrap(), &program]);
    assert_eq!(std::fs::read(&to).unwrap().len(), 180_000);
}

#[test]
fn a_report_that_waits_for_a_word_gets_it() {
    let bed = Bed::new();
    let body = serde_json::to_string(&hello(&bed, MAC)).unwrap();
    let url = format!("https://{}:{}/v1/node/hello", bed.config.address, bed.config.node_port);
    let ca = bed.config.certificate.to_str().unwrap();
    let fields = ["-H", "content-type: application/json", "-H", "Expect: 100-continue"];
    let long = ["--expect100-timeout", "100"];
    let manifest = must("curl", &[&["-sSf", "--cacert", ca, "-d", &body], &fields[..], &long[..], &[&url]].concat());
    assert_eq!(serde_json::from_str::<Manifest>(&manifest).unwrap().name, "rack1-07");
}

/// Some systems let processes begin with 1024 descriptors; these tests hold more connections.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Bytes of memory that a process has in use of its own: what is mapped of files does not count.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Clients that ask for everything and read nothing, that never end their request, and that say nothing at all.
#[test]
fn hundreds_of_clients_that_stall_cost_little_and_keep_nobody_out() {
    let bed = Bed::new();
    let root = bed.config.images[0].root.blob;
    more_descriptors();
    let before = memory(bed.pid());
    let greedy: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connect(&bed);
            stream.write_all(get(&blob_path(&root)).repeat(50).as_bytes()).unwrap();
            stream
        })
        .collect();
    let slow: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connect(&bed);
            stream.write_all(b"GET /v1/boot.ipxe HTTP/1.1\r\nHost: ").unwrap();
            stream
        })
        .collect();
    let silent: Vec<_> = (0..100).map(|_| connect(&bed)).collect();
    // Whoever reads gets it, meanwhile and byte by byte.
    must("curl", &["-sSf", "-o", bed.path("read").to_str().unwrap(), &bed.http(&blob_path(&root))]);
    assert!(std::fs::read(bed.path("read")).unwrap() == bed.root);
    let used = memory(bed.pid()).saturating_sub(before);
    assert!(used < 48 << 20, "{} KiB for 500 clients", used >> 10);
    drop((greedy, slow, silent));
    must("curl", &["-sSf", "-o", "/dev/null", &bed.http(&blob_path(&root))]);
}

/// More connections than the farm may open: those that wait longest for nothing make room.
#[test]
fn silent_connections_make_room_for_those_who_ask() {
    let mut bed = Bed::stopped();
    bed.descriptors = Some(200);
    bed.start();
    more_descriptors();
    let silent: Vec<_> = (0..400).map(|_| connect(&bed)).collect();
    for _ in 0..20 {
        let kernel = bed.http(&blob_path(&bed.config.images[0].kernel.digest));
        must("curl", &["-sSf", "--max-time", "60", "-o", "/dev/null", &kernel]);
    }
    let ended = silent.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        matches!((&mut &**stream).read(&mut [0; 1]), Ok(0))
    });
    assert!(ended.count() > 150, "the oldest were asked to leave");
}

/// Clients that never stop asking do not starve one that asks once, and each of them gets its share.
#[test]
fn everybody_gets_a_turn() {
    let bed = Bed::new();
    let path = blob_path(&bed.config.images[0].root.blob);
    let done = std::sync::atomic::AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let greedy: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let mut reader = BufReader::with_capacity(256 << 10, connect(&bed));
                    let mut times = 0;
                    while times == 0 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                        reader.get_mut().write_all(get(&path).as_bytes()).unwrap();
                        assert!(answer(&mut reader, true).1 == bed.root);
                        times += 1;
                    }
                    times
                })
            })
            .collect();
        for _ in 0..5 {
            must("curl", &["-sSf", "--max-time", "60", "-o", "/dev/null", &bed.http(&path)]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        greedy.into_iter().map(|client| client.join().unwrap()).collect::<Vec<u32>>()
    });
    assert!(served.iter().all(|times| *times > 0), "{served:?}");
}

/// Signals end system calls early, and the kernel has nothing more to tell of a socket that is not full.
#[test]
fn transfers_survive_a_farm_that_is_stopped_and_continued() {
    let bed = Bed::new();
    let path = blob_path(&bed.config.images[0].root.blob);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut reader = BufReader::with_capacity(256 << 10, connect(&bed));
                    for _ in 0..40 {
                        reader.get_mut().write_all(get(&path).as_bytes()).unwrap();
                        assert!(answer(&mut reader, true).1 == bed.root);
                    }
                })
            })
            .collect();
        while !clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            must("kill", &["-STOP", &bed.pid().to_string()]);
            must("kill", &["-CONT", &bed.pid().to_string()]);
        }
    });
}

#[test]
fn no_more_machines_load_at_once_than_the_farm_says() {
    const SECOND: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 8]);
    let mut bed = Bed::stopped();
    bed.config.max_loading = Some(1);
    bed.config.nodes.push(node("rack1-08", SECOND));
    bed.start();
    let script = |mac: MacAddr| must("curl", &["-sSf", &bed.http(&format!("/v1/boot.ipxe?mac={mac}"))]);
    assert!(script(MAC).contains("\nkernel http://"));
    let waits = script(SECOND);
    assert!(waits.contains("\nsleep ") && !waits.contains("\nkernel "), "{waits}");
    assert!(script(MAC).contains("\nkernel http://"), "who loads may ask again");
    let storm = bed.report().storm;
    assert_eq!((storm.loading, storm.waiting, storm.most_loading, storm.boots), (1, 1, 1, 1));
    let (text, _) = post(&bed, "/v1/node/hello", &hello(&bed, MAC));
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    assert!(script(SECOND).contains("\nsleep "), "a node that said hello still fetches its root");
    let events = vec![Event { phase: Phase::Root, uptime_ms: 1, detail: String::new() }];
    let report =
        Report { session: manifest.session, events, ssh_host_keys: vec![], root: "ram".into(), ..Report::default() };
    assert_eq!(post(&bed, "/v1/node/report", &report).1, "204");
    assert!(script(SECOND).contains("\nkernel http://"));
    let storm = bed.report().storm;
    assert_eq!((storm.loading, storm.waiting, storm.most_loading, storm.boots), (1, 0, 1, 2));
}

/// Only files of the folder itself are served, whoever may write there.
#[test]
fn a_blob_that_leads_elsewhere_is_not_served() {
    let bed = Bed::new();
    let kernel = bed.config.images[0].kernel.digest;
    let file = bed.config.blobs.join("sha256").join(kernel.hex());
    std::fs::rename(&file, bed.path("elsewhere")).unwrap();
    let status = || must("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &bed.http(&blob_path(&kernel))]);
    std::os::unix::fs::symlink(bed.path("elsewhere"), &file).unwrap();
    assert_eq!(status(), "503");
    std::fs::remove_file(&file).unwrap();
    // A pipe that nobody writes into would hold whoever opens it.
    must("mkfifo", &[file.to_str().unwrap()]);
    assert_eq!(status(), "503");
    std::fs::remove_file(&file).unwrap();
    std::fs::rename(bed.path("elsewhere"), &file).unwrap();
    assert_eq!(status(), "200");
}

#[test]
fn a_digest_in_other_words_is_none() {
    let bed = Bed::new();
    let digest = bed.config.images[0].kernel.digest;
    for path in [
        blob_path(&digest).to_uppercase(),
        format!("/v1/blob/sha256/{}/", digest.hex()),
        format!("/v1/blob/sha256/%2e%2e/{}", digest.hex()),
        format!("/v1/blob//sha256/{}", digest.hex()),
        blob_path(&Digest([0; 32])),
    ] {
        let status = must("curl", &["-sS", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", &bed.http(&path)]);
        assert_eq!(status, "404", "{path}");
    }
}
