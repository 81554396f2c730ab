//! Limits of cgroups, when created and when updated.

use serde_json::{Value, json};

use crate::world::{World, until};

fn read(world: &World, controller: &str, file: &str) -> String {
    let path = format!("/sys/fs/cgroup/{controller}/{}/{file}", world.id);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

#[test]
fn limits_are_written_and_updated() {
    let world = World::new("sleep 1000").with("/linux/resources", json!({
        "memory": {"limit": 67_108_864}, "pids": {"limit": 50}, "cpu": {"shares": 512, "quota": 20_000, "period": 100_000},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
    }));
    world.begin();
    assert_eq!(read(&world, "memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(read(&world, "pids", "pids.max"), "50");
    assert_eq!(read(&world, "cpu", "cpu.shares"), "512");
    assert_eq!(read(&world, "cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(read(&world, "unified", "hugetlb.2MB.max"), "4194304");
    std::fs::write(world.path("resources"), r#"{"memory": {"limit": 33554432}}"#).unwrap();
    world.ok(&["update", "--resources", world.path("resources").to_str().unwrap(), &world.id]);
    assert_eq!(read(&world, "memory", "memory.limit_in_bytes"), "33554432");
    assert_eq!(read(&world, "pids", "pids.max"), "50");
    std::fs::write(world.path("resources"), r#"{"memory": {"limit": 4096, "checkBeforeUpdate": true}}"#).unwrap();
    let said = world.fails(&["update", "--resources", world.path("resources").to_str().unwrap(), &world.id]);
    assert!(said.starts_with("linux.resources.memory.limit: 4096 is less than"), "{said}");
    world.ok(&["update", "--pids-limit", "-1", "--cpu-share", "100", &world.id]);
    assert_eq!(read(&world, "pids", "pids.max"), "max");
    assert_eq!(read(&world, "cpu", "cpu.shares"), "100");
}

#[test]
fn devices_are_denied_unless_allowed() {
    let world = World::new("head -c 1 /dev/zero > /dev/null && echo zero; head -c 1 /dev/vda || echo denied; head -c 1 /dev/kmsg > /dev/null 2>&1 || echo no kmsg")
        .with("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}]}))
        .with("/linux/devices", json!([{"path": "/dev/vda", "type": "b", "major": 254, "minor": 0}, {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]));
    let output = world.call(&["run", &world.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "zero\ndenied\nno kmsg\n");
}

#[test]
fn a_limit_that_this_host_has_not_fails_by_its_name_and_leaves_nothing() {
    let world = World::new("true").with("/linux/resources", json!({"network": {"classID": 5}}));
    let said = world.fails(&["create", &world.id]);
    assert!(said.starts_with("linux.resources.network.classID: "), "{said}");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn a_limit_that_the_kernel_refuses_fails_by_its_name_and_leaves_nothing() {
    let world = World::new("true").with("/linux/resources", json!({"cpu": {"cpus": "900"}}));
    let said = world.fails(&["create", &world.id]);
    assert!(said.starts_with("linux.resources.cpu.cpus: "), "{said}");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn a_paused_container_stands_still_and_can_be_deleted() {
    let world = World::new("i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.01; done");
    world.begin();
    let count = || std::fs::read_to_string(world.rootfs().join("tmp/count")).unwrap_or_default();
    until("it counts", || (!count().is_empty()).then_some(()));
    world.ok(&["pause", &world.id]);
    assert_eq!(world.status(), "paused");
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(count(), before);
    assert!(world.fails(&["exec", &world.id, "true"]).contains("it is paused"));
    world.ok(&["resume", &world.id]);
    until("it goes on", || (count() != before && !count().is_empty()).then_some(()));
    world.ok(&["pause", &world.id]);
    world.ok(&["delete", "--force", &world.id]);
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn what_it_uses_can_be_read() {
    let world = World::new("sleep 1000").with("/linux/resources", json!({"memory": {"limit": 67_108_864}}));
    world.begin();
    let events: Value = serde_json::from_str(&world.ok(&["events", "--stats", &world.id])).unwrap();
    assert_eq!(events["type"], "stats");
    assert!(events["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert_eq!(events["data"]["memory"]["usage"]["limit"], 67_108_864);
    assert!(events["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(events["data"]["pids"]["current"].as_u64().unwrap() >= 1);
}

#[test]
fn the_containers_cgroups_can_be_mounted() {
    let world = World::new("cat /sys/fs/cgroup/pids/pids.max; touch /sys/fs/cgroup/pids/x 2>/dev/null || echo fixed; grep -c $$ /sys/fs/cgroup/memory/cgroup.procs")
        .with("/linux/resources", json!({"pids": {"limit": 44}}))
        .with("/mounts/-", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}));
    assert_eq!(world.run(), "44\nfixed\n1\n");
}
