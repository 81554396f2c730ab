//! Namespaces: new, joined, and mapped to other users.

use serde_json::json;

use crate::world::World;

#[test]
fn namespaces_of_another_container_can_be_joined() {
    let first = World::new("sleep 1000").with("/hostname", json!("first"));
    first.begin();
    let pid = first.state()["pid"].as_i64().unwrap();
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    let second = World::new("hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; echo $$").with(
        "/linux/namespaces",
        json!([
            {"type": "mount"}, {"type": "uts", "path": path("uts")}, {"type": "network", "path": path("net")},
            {"type": "ipc", "path": path("ipc")}, {"type": "pid", "path": path("pid")},
        ]),
    );
    let seen = second.run();
    let link = |kind: &str| std::fs::read_link(path(kind)).unwrap().display().to_string();
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(&lines[..3], ["first", &link("net"), &link("ipc")]);
    assert_ne!(lines[3], "1");
}

#[test]
fn a_namespace_of_another_kind_is_refused() {
    let world = World::new("true").with("/linux/namespaces/-", json!({"type": "cgroup", "path": "/proc/self/ns/net"}));
    let said = world.fails(&["create", &world.id]);
    assert!(said.starts_with("linux.namespaces: cgroup namespace /proc/self/ns/net"), "{said}");
    let world = World::new("true").with("/linux/namespaces/-", json!({"type": "cgroup", "path": "/etc/passwd"}));
    assert!(world.fails(&["create", &world.id]).contains("is no namespace"));
}

#[test]
fn users_can_be_mapped() {
    let world = World::new("id -u; cat /proc/self/uid_map | awk '{print $1, $2, $3}'; stat -c %u /bin; touch /owned /tmp/x && echo made; stat -c %u /tmp/x; head -c 1 /dev/zero | wc -c")
        .with("/linux/namespaces/-", json!({"type": "user"}))
        .with("/linux/uidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]))
        .with("/linux/gidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]));
    chown(&world.rootfs(), 300_000);
    assert_eq!(world.run(), "0\n0 300000 1000\n0\nmade\n0\n1\n");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(world.rootfs().join("tmp/x")).unwrap()), 300_000);
}

fn chown(folder: &std::path::Path, user: u32) {
    std::os::unix::fs::lchown(folder, Some(user), Some(user)).unwrap();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            chown(&path, user);
        } else {
            std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
        }
    }
}

#[test]
fn exec_works_with_mapped_users() {
    let world = World::new("sleep 1000")
        .with("/linux/namespaces/-", json!({"type": "user"}))
        .with("/linux/uidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]))
        .with("/linux/gidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]));
    chown(&world.rootfs(), 300_000);
    world.begin();
    assert_eq!(world.ok(&["exec", &world.id, "id", "-u"]), "0\n");
    assert_eq!(world.ok(&["exec", "--user", "5:6", &world.id, "sh", "-c", "id -u; id -g"]), "5\n6\n");
}

#[test]
fn a_bind_mount_can_have_the_containers_ids() {
    let world = World::new("stat -c %u /shared/x; touch /shared/new")
        .with("/linux/namespaces/-", json!({"type": "user"}))
        .with("/linux/uidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]))
        .with("/linux/gidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]))
        .with("/mounts/-", json!({"destination": "/shared", "source": "../shared", "options": ["bind", "idmap"]}));
    chown(&world.rootfs(), 300_000);
    std::fs::create_dir(world.path("shared")).unwrap();
    std::fs::write(world.path("shared/x"), "").unwrap();
    assert_eq!(world.run(), "0\n");
    let new = std::fs::metadata(world.path("shared/new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&new), 0);
}

#[test]
fn clocks_can_be_moved() {
    let world = World::new("cat /proc/self/timens_offsets | awk '{print $1, $2}'; readlink /proc/self/ns/time")
        .with("/linux/namespaces/-", json!({"type": "time"}))
        .with("/linux/timeOffsets", json!({"monotonic": {"secs": 1000}, "boottime": {"secs": 5000}}));
    let seen = world.run();
    assert!(seen.starts_with("monotonic 1000\nboottime 5000\n"), "{seen}");
    let own = std::fs::read_link("/proc/self/ns/time").unwrap().display().to_string();
    assert!(!seen.contains(&own));
}

#[test]
fn a_new_network_has_its_loopback_up() {
    let world = World::new("cat /sys/class/net/lo/flags")
        .with("/mounts/-", json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}));
    assert_eq!(world.run(), "0x9\n");
}
