//! A farm configuration of LTSP 5 with every key that matters for servers, on a real guest: what became of each.

use e2e::{BOOT_LIMIT, installation, object};
use testbed::{User, wait_for};

const EVERY_KEY: &str = include_str!("../../../crates/stoke-boot/src/lts/fixtures/every_key.conf");

const MACHINE: &str = "  vm: {cpus: 1, memory: 1Gi, firmware: {bios: {}}, boot: {from: Network}}
  farm: lab
  nics: [{name: lab, lan: lab, address: 10.10.0.21, mac: '52:54:00:00:00:21'}]
";

/// What is looked at on the node, and what must be seen: one line each.
const SEEN: &[(&str, &str)] = &[
    ("hostname", "rack525400000021"),
    ("getent hosts store | tr -s ' '", "10.10.0.5 store.lab.internal store"),
    ("getent hosts backup | tr -s ' '", "10.10.0.6 backup"),
    ("grep ^search /etc/resolv.conf", "search lab.internal example.com"),
    ("grep ^nameserver /etc/resolv.conf", "nameserver 10.10.0.1"),
    ("findmnt -n -o FSTYPE /srv/early", "tmpfs"),
    ("stat -c %a /srv/late", "750"),
    ("findmnt -n -o FSTYPE /srv/told", "tmpfs"),
    // In the order of their numbers; what only the shell can tell comes last.
    ("awk '/srv/ { printf \"%s \", $2 }' /etc/fstab; echo", "/srv/early /srv/gone /srv/late /srv/told "),
    ("stat -c %a /var/spool/cron/crontabs/root; cat /var/spool/cron/crontabs/root", "600\n30 13 * * * touch /run/cron"),
    ("cat /etc/from-overlay", "over"),
    ("sed 's/ [^ ]*$//; /^two/q' /etc/preinit", "one own seen\ntwo"),
    ("grep -c ' [a-z][a-z0-9]*$' /etc/preinit", "2"),
    ("cmp /etc/preinit /run/rcfile && echo same", "same"),
    ("cmp /rofs/etc/debian_version /run/from-rofs && echo same", "same"),
    ("ls /run/not-reached 2>/dev/null || echo stopped", "stopped"),
    ("ls -d /sys/class/net/dummy* | wc -l", "2"),
    ("readlink /etc/systemd/system/smartd.service", "/dev/null"),
    ("readlink /etc/systemd/system/lowram.timer", "/dev/null"),
    ("readlink /etc/systemd/system/nbd-server.service", "/dev/null"),
    ("readlink /etc/systemd/system/rpcbind.service || echo kept", "kept"),
    ("readlink /etc/localtime", "/usr/share/zoneinfo/Europe/Prague"),
    ("cat /etc/rsyslog.d/90-ltsp.conf", "*.* @10.10.0.1"),
    // What scripts of LTSP look for.
    ("stat -c %a /etc/lts.conf", "600"),
    ("test -d /rofs/etc && test -d /run/initramfs/cow/upper && echo there", "there"),
    (". /run/net-e*.conf; echo $IPV4ADDR $IPV4NETMASK", "10.10.0.21 255.255.255.0"),
    (". /run/ltsp/node.conf; echo $SERVER $MAC_ADDRESS", "10.10.0.1 52:54:00:00:00:21"),
];

#[test]
fn every_key_of_lts_conf_on_a_node() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n  ltsConf: {file: lts.conf}\n")?;
    farm.write("lts.conf", EVERY_KEY)?;
    farm.write("machine.yaml", &object("Machine", "node-1", MACHINE))?;
    farm.up()?;
    let node = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    // LTSP_NBD_TO_RAM, whatever the farm's other nodes do.
    assert_eq!(node.pointer("/status/node/root"), Some(&"ram".into()));

    let mut script = String::from("for i in $(seq 60); do [ -e /run/rcfile ] && break; sleep 1; done\n");
    for (command, _) in SEEN {
        script.extend(["(", command, ")\necho =\n"]);
    }
    let said = farm.check(&["ssh", "node-1", "--", &script])?;
    let seen: Vec<_> = said.split("=\n").map(|answer| answer.strip_suffix('\n').unwrap_or(answer)).collect();
    let wrong: Vec<_> = SEEN
        .iter()
        .zip(&seen)
        .filter(|((_, wanted), seen)| wanted != *seen)
        .map(|((command, wanted), seen)| format!("{command}: {seen:?} instead of {wanted:?}"))
        .collect();
    let log = || farm.check(&["ssh", "node-1", "--", "cat /run/stokehold/hooks/ltsp.log /etc/stokehold/hooks/ltsp"]);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", log()?);

    // Each value is shown with its line, and what means nothing is named with its own.
    let shown = farm.check(&["config", "node-1"])?;
    let line = |field: &str| shown.lines().find(|line| line.starts_with(field)).unwrap_or_default().to_owned();
    let number = |key: &str| EVERY_KEY.lines().position(|line| line.starts_with(key)).map_or(0, |line| line + 1);
    assert!(line("timezone").contains(&format!("lts.conf:{}", number("TIMEZONE="))), "{shown}");
    assert!(line("mounts[/srv/late]").contains(&format!("lts.conf:{}", number("FSTAB_10"))), "{shown}");
    let message = |farm: &testbed::Installation| -> anyhow::Result<String> {
        let lab = farm.object("farm", "lab")?;
        let conditions = lab.pointer("/status/conditions").and_then(|all| all.as_array()).cloned().unwrap_or_default();
        let condition = conditions.into_iter().find(|condition| condition["type"] == "LtspConf").unwrap_or_default();
        Ok(condition["message"].as_str().unwrap_or_default().to_owned())
    };
    assert!(message(&farm)?.contains(&format!("lts.conf:{} LTSP_DATA_DRIVE", number("LTSP_DATA_DRIVE"))));

    // An edit of the file is followed; one that cannot be is refused with its line, and the file before it holds.
    farm.write("lts.conf", "[default]\nXKBLAYOUT=us\n")?;
    wait_for("the edit", BOOT_LIMIT, || Ok(message(&farm)?.contains("lts.conf:2 XKBLAYOUT").then_some(())))?;
    farm.write("lts.conf", "[default]\nTIMEZONE=Etc/UTC\nHOSTS_1=nonsense\n")?;
    wait_for("the refusal", BOOT_LIMIT, || Ok(farm.log().contains("lts.conf:3: HOSTS_1").then_some(())))?;
    assert!(message(&farm)?.contains("XKBLAYOUT"));
    farm.down()
}
