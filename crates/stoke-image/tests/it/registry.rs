//! Images from a registry: distribution's, filled and asked by skopeo.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use fs_err as fs;
use testbed::{Process, REGISTRY, go_tool, wait_for};

use crate::trees::{Yard, digest, from_registry, layers, layout, lower, write_layout};
use crate::world::{run, text};

/// A registry of this host for the time of a test.
struct Server {
    port: u16,
    process: Process,
}

impl Server {
    fn start(yard: &Yard) -> Self {
        // A port that is free now; if it is not any more when the registry comes, another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
                yard.path("registry").display()
            );
            let config = yard.write("registry.yml", config.as_bytes());
            let mut command = Command::new(go_tool(REGISTRY).unwrap());
            command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = Process::start(command.env("OTEL_TRACES_EXPORTER", "none")).unwrap();
            let answers = wait_for("the registry", Duration::from_mins(1), || {
                if !process.is_running()? {
                    return Ok(Some(false));
                }
                Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true))
            });
            if answers.unwrap() {
                return Self { port, process };
            }
        }
        panic!("the registry does not start");
    }

    fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Puts an image there, and says its digest.
    fn push(&self, yard: &Yard, name: &str, layers: &[Vec<u8>]) -> String {
        let folder = yard.path("pushed");
        let _ = fs::remove_dir_all(&folder);
        let files = layout(layers);
        write_layout(&folder, &files);
        let (from, to) = (format!("oci:{}", text(&folder)), format!("docker://{}", self.name(name)));
        run("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", &from, &to]);
        let manifest = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &to]);
        digest(manifest.as_bytes()).to_string()
    }
}

#[test]
fn images_of_a_registry_by_tag_by_digest_and_when_it_is_gone() {
    let yard = Yard::new();
    let mut server = Server::start(&yard);
    let field = "spec.source.oci.reference";
    let said = yard.refused(from_registry(&server.name("node:1")), field);
    assert!(said.contains("cannot be pulled") && said.contains("unknown"), "{said}");

    let pinned = server.push(&yard, "node:1", &layers());
    let image = yard.built(from_registry(&server.name("node:1")));
    assert_eq!(yard.content(&image, "etc/replaced"), "new");
    let by_digest = server.name(&format!("node@{pinned}"));
    assert_eq!(yard.built(from_registry(&by_digest)).digest, image.digest);
    assert_eq!(yard.built(from_registry(&server.name(&format!("node:1@{pinned}")))).digest, image.digest);

    // The tag moves on, the digest does not.
    let mut newer = layers().to_vec();
    newer.push(crate::trees::Tar::new().file("etc/replaced", 0o644, b"newest").end());
    server.push(&yard, "node:1", &newer);
    let moved = yard.built(from_registry(&server.name("node:1")));
    assert_eq!(yard.content(&moved, "etc/replaced"), "newest");
    assert_eq!(yard.built(from_registry(&by_digest)).digest, image.digest);

    server.process.kill();
    assert_eq!(yard.built(from_registry(&by_digest)).digest, image.digest, "what has a digest needs no registry");
    let error = yard.build(&yard.config(from_registry(&server.name("node:1")))).unwrap_err();
    assert_eq!(error.field(), Some(field));
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(fs::read_dir(yard.path("images/tmp")).unwrap().count(), 0);
}

#[test]
fn an_image_that_cannot_boot_says_what_to_take_instead() {
    let yard = Yard::new();
    let server = Server::start(&yard);
    server.push(&yard, "small:1", &[lower().end()]);
    let error = yard.build(&yard.config(from_registry(&server.name("small:1")))).unwrap_err();
    assert!(error.to_string().contains("it has no kernel; take an image for machines"), "{error}");
}
