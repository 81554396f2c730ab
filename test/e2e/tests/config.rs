//! A node is configured out of several scopes, people see which said what, and a change is there after a reboot.

use anyhow::Context as _;
use e2e::{BOOT_LIMIT, installation, object};
use serde_json::Value;
use testbed::{Installation, User, wait_for};

/// Two classes, one of which the machine overrides; the second interface is of a LAN without a farm.
fn spec(swappiness: &str) -> String {
    format!(
        "  lan: lab
  image: node
  boot: {{root: Nbd}}
  config:
    sysctls: {{vm.swappiness: '60', kernel.panic: '7'}}
    hosts: [{{address: 10.10.0.5, names: [store.lab.internal, store]}}]
    kernelArguments: [panic=11]
  classes:
  - name: storage
    selector: {{matchLabels: {{role: storage}}}}
    config:
      sysctls: {{vm.swappiness: '{swappiness}'}}
      mounts:
      - {{path: /var/scratch, device: tmpfs, type: tmpfs, options: [size=8M]}}
      - {{path: /var/missing, device: LABEL=nowhere, options: [nofail]}}
      files: [{{path: /etc/class, content: \"storage\\n\", mode: '0640', owner: 'ops'}}]
  - name: small
    selector: {{inventory: {{maxMemory: 4Gi}}}}
    config:
      files: [{{path: /etc/size, content: \"small\\n\"}}]
      hooks:
      - {{name: before, when: PreInit, script: 'echo $STOKEHOLD_NODE $(cat /etc/class) > /etc/before; ls /proc/self > /dev/null'}}
      - {{name: late, when: PostInit, script: 'echo said; exit 3', onFailure: Continue}}
"
    )
}

const MACHINE: &str = "  vm: {cpus: 1, memory: 1Gi, firmware: {bios: {}}, boot: {from: Network}}
  farm: lab
  nics:
  - {name: lab, lan: lab, address: 10.10.0.21}
  - {name: back, lan: back, mac: '52:54:00:00:77:01'}
  config:
    users: [{name: ops, uid: 2000, groups: [adm]}]
    files: [{path: /etc/class, content: \"mine\\n\", owner: 'ops:adm'}]
    interfaces: [{mac: '52:54:00:00:77:01', addresses: [10.77.0.5/24]}]
    units:
    - {name: hello.service, enabled: true, content: \"[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/touch /run/hello\\n[Install]\\nWantedBy=multi-user.target\\n\"}
    - {name: cron.service, masked: true}
";

fn write(farm_of: &Installation, swappiness: &str) -> anyhow::Result<()> {
    farm_of.write("farm.yaml", &object("Farm", "lab", &spec(swappiness)))?;
    Ok(())
}

#[test]
fn two_classes_an_override_and_a_change_that_is_there_after_a_reboot() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "")?;
    write(&farm, "30")?;
    let back = "  subnets: [{name: v4, cidr: 10.77.0.0/24}]\n  dhcp: {mode: 'Off'}\n";
    farm.write("back.yaml", &object("Lan", "back", back))?;
    let labelled = object("Machine", "node-1", MACHINE);
    farm.write("machine.yaml", &labelled.replace("{name: node-1}", "{name: node-1, labels: {role: storage}}"))?;
    farm.up()?;
    let node = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;

    let shown: Value = serde_json::from_str(&farm.check(&["config", "node-1", "-o", "json"])?)?;
    assert_eq!(shown["classes"].as_array().map(Vec::len), Some(2), "{shown:#}");
    let from = |field: &str| -> anyhow::Result<(String, usize)> {
        let origins = shown["origins"].as_array().context("origins")?;
        let origin = origins.iter().find(|origin| origin["field"] == field).context(field.to_owned())?;
        Ok((origin["from"].as_str().unwrap_or_default().to_owned(), origin["over"].as_array().map_or(0, Vec::len)))
    };
    assert_eq!(from("files[/etc/class]")?, ("machine/node-1".into(), 1));
    assert_eq!(from("sysctls[vm.swappiness]")?, ("class storage of farm/lab".into(), 1));
    assert_eq!(from("files[/etc/size]")?, ("class small of farm/lab".into(), 0));
    assert_eq!(from("sysctls[kernel.panic]")?, ("farm/lab".into(), 0));

    let look = "cat /proc/sys/vm/swappiness /proc/sys/kernel/panic; stat -c '%U %G %a' /etc/class; cat /etc/size; \
                findmnt -n -o FSTYPE,SIZE /var/scratch; getent hosts store; ls /run/hello; cat /etc/before; \
                readlink /etc/systemd/system/cron.service; id -nG ops; grep -o panic=11 /proc/cmdline; \
                for i in $(seq 60); do ip -br -4 addr | grep -q 10.77.0.5 && break; sleep 1; done; \
                ip -br -4 addr | grep -o 10.77.0.5/24; ip -br -4 addr | grep -o 10.10.0.21/24";
    let said = farm.check(&["ssh", "node-1", "--", look])?;
    let words: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let wanted = [
        "30",
        "7",
        "ops adm 644",
        "small",
        "tmpfs 8M",
        "10.10.0.5 store.lab.internal store",
        "/run/hello",
        "node-1 mine",
        "/dev/null",
        "ops adm",
        "panic=11",
        "10.77.0.5/24",
        "10.10.0.21/24",
    ];
    assert_eq!(words, wanted, "{said}");

    // What it does not do is told: the hook that may fail, the mount without which it goes on.
    let told = wait_for("what the node does not do", BOOT_LIMIT, || {
        let node = farm.object("machine", "node-1")?;
        let remarks = node.pointer("/status/node/remarks").map(ToString::to_string).unwrap_or_default();
        let all = remarks.contains("hook late") && remarks.contains("/var/missing");
        Ok(all.then_some(remarks))
    })?;
    assert!(told.contains("exit-code 3: said") && told.contains("LABEL=nowhere is not there"), "{told}");

    // A change that no node could have is refused with its place, whoever is asked, and nothing of it is taken.
    let wrong = spec("20").replace("path: /var/missing", "path: /etc");
    farm.write("farm.yaml", &object("Farm", "lab", &wrong))?;
    let plan = farm.output(&["plan", &farm.objects()])?;
    let words = String::from_utf8_lossy(&plan.stderr).into_owned();
    assert!(!plan.status.success() && words.contains("/etc/size is hidden by what is mounted at /etc"), "{words}");
    assert!(words.contains("farm.yaml:") && words.contains("machine/node-1"), "{words}");

    write(&farm, "20")?;
    let before = node.pointer("/status/node/bootStarted").cloned();
    wait_for("the change to be known", BOOT_LIMIT, || {
        let shown = farm.check(&["config", "machine/node-1"])?;
        Ok(shown.lines().any(|line| line.starts_with("sysctls[vm.swappiness]") && line.contains(" 20 ")).then_some(()))
    })?;
    farm.check(&["reboot", "node-1"])?;
    wait_for("another boot", BOOT_LIMIT, || {
        let node = farm.object("machine", "node-1")?;
        let again = node.pointer("/status/node/bootStarted").cloned() != before;
        Ok((again && node.pointer("/status/node/ready") == Some(&true.into())).then_some(()))
    })?;
    assert_eq!(farm.check(&["ssh", "node-1", "--", "cat /proc/sys/vm/swappiness"])?.trim(), "20");
    farm.down()
}
