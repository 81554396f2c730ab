//! Secrets of a node whose TPM has to prove what runs: given after the proof, to nobody else, and not to another kernel.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::{BOOT_LIMIT, installation, object};
use serde_json::{Value, json};
use testbed::{Installation, User, wait_for};

const SECRET: &str = "correct-horse-battery-staple";
const MAC: &str = "52:54:00:00:00:21";

/// A farm that trusts TPMs, with a machine that has one, and a secret.
fn farm() -> Result<Installation> {
    let trust = "  trust: Tpm\n  boot: {root: Nbd}\n";
    let farm = installation(User::Root, "", trust)?;
    let secret = farm.world().folder().join("token");
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true).options_mut().mode(0o600);
    std::io::Write::write_all(&mut options.open(&secret)?, SECRET.as_bytes())?;
    let config = format!("  config: {{files: [{{path: /etc/lab/token, secret: {{file: {}}}}}]}}\n", secret.display());
    let vm = "  vm: {cpus: 1, memory: 1Gi, tpm: true, firmware: {uefi: {}}, boot: {from: Network}}\n";
    let nics = format!("  nics: [{{name: lab, lan: lab, mac: \"{MAC}\", address: 10.10.0.21}}]\n");
    farm.write("machine.yaml", &object("Machine", "node-1", &format!("{vm}  farm: lab\n{nics}{config}")))?;
    Ok(farm)
}

/// Waits until the machine's condition `Attested` has this reason; its message.
fn attested(farm: &Installation, reason: &str) -> Result<String> {
    let condition = || {
        let machine = farm.object("machine", "node-1")?;
        let conditions = machine.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == "Attested");
        Ok(found
            .filter(|found| found["reason"] == reason)
            .and_then(|found| Some(found["message"].as_str()?.to_owned())))
    };
    let waited = wait_for(&format!("Attested to be {reason}"), BOOT_LIMIT, condition);
    waited.map_err(|error| error.context(farm.console("node-1")))
}

/// What the farm was told to serve.
fn served(farm: &Installation) -> Result<Value> {
    let path = farm.state().join("run/workloads/farm-default-lab/config.json");
    Ok(serde_json::from_str(&fs_err::read_to_string(path)?)?)
}

/// Fetches something as a machine on the LAN does.
fn fetched(farm: &Installation, arguments: &[&str]) -> Result<Vec<u8>> {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    farm.in_namespace(move || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-k", "--max-time", "60"]).args(arguments).stdin(Stdio::null());
        Ok(curl.output()?.stdout)
    })
}

/// All that a third machine can get of the farm, in the name of the machine as well as in its own.
fn nothing_is_given_away(farm: &Installation) -> Result<()> {
    let config = served(farm)?;
    let mut urls = vec!["http://10.10.0.1/".to_owned(), "http://10.10.0.1/v1/boot.ipxe".to_owned()];
    for mac in [MAC, "52:54:00:00:00:99"] {
        let dashed = format!("01-{}", mac.replace(':', "-"));
        urls.push(format!("http://10.10.0.1/v1/boot.ipxe?mac={mac}"));
        for name in [format!("pxelinux.cfg/{dashed}"), format!("grub/grub.cfg-{dashed}"), "grub/grub.cfg".to_owned()] {
            urls.push(format!("tftp://10.10.0.1/{name}"));
        }
    }
    for image in config["images"].as_array().context("no images")? {
        for part in ["kernel", "initramfs", "farmInitramfs", "uki"] {
            let digest = image[part]["digest"].as_str().context("a part without a digest")?;
            urls.push(format!("http://10.10.0.1/v1/blob/{}", digest.replace(':', "/")));
        }
    }
    for url in &urls {
        let content = fetched(farm, &[url])?;
        ensure!(!contains(&content, SECRET), "{url} gives the secret away");
    }
    for mac in [MAC, "52:54:00:00:00:99"] {
        asks_in_vain(farm, mac, &config["images"][0]["root"]["blob"])?;
    }
    Ok(())
}

/// Somebody says that he is the machine with this address.
fn asks_in_vain(farm: &Installation, mac: &str, root: &Value) -> Result<()> {
    let post = |path: &str, body: &Value| {
        let (url, body) = (format!("https://10.10.0.1:8443{path}"), body.to_string());
        let answer = fetched(farm, &["-H", "content-type: application/json", "-d", &body, &url])?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let hello = json!({
        "protocol": 1, "bootMac": mac, "macs": [mac], "address": "10.10.0.99", "root": root, "memory": 1_u64 << 30,
        "cpus": 1, "uptimeMs": 1,
    });
    let manifest = post("/v1/node/hello", &hello)?;
    ensure!(!manifest.contains(SECRET), "the manifest of {mac} gives the secret away");
    let session =
        serde_json::from_str::<Value>(&manifest).ok().and_then(|text| Some(text["session"].as_str()?.to_owned()));
    ensure!(session.is_some() == (mac == MAC), "{mac}: {manifest}");
    let Some(session) = session else { return Ok(()) };
    let given = post("/v1/node/secrets", &json!({ "session": session }))?;
    ensure!(given.contains("prove first what you run"), "{given}");
    let key = "11".repeat(64);
    let shown = json!({ "session": session, "endorsement": key, "attestation": key });
    let given = post("/v1/node/attest", &shown)?;
    ensure!(given.contains("if it was replaced: stoke farm enroll machine/node-1"), "{given}");
    Ok(())
}

fn contains(content: &[u8], text: &str) -> bool {
    content.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Puts another kernel image in the place of the farm's, as somebody who can write there, or who answers in its name, would.
fn replace_kernel(farm: &Installation) -> Result<()> {
    let config = served(farm)?;
    let digest = config["images"][0]["uki"]["digest"].as_str().context("no kernel")?.replace(':', "/");
    let path = farm.state().join("images/blobs").join(digest);
    ensure!(fs_err::metadata(&path)?.nlink() == 1, "{} is not the farm's own", path.display());
    let mut content = fs_err::read(&path)?;
    let words = b"console=ttyS0";
    let at = content.windows(words.len()).position(|window| window == words).context("no kernel arguments")?;
    let end = content.iter().skip(at).position(|byte| *byte == 0).context("arguments without an end")?;
    // A blank in the place of the zero at the end: another command line, which boots all the same.
    *content.get_mut(at + end).context("the file ends")? = b' ';
    Ok(fs_err::write(&path, content)?)
}

#[test]
fn a_node_gets_its_secrets_after_a_proof_and_nobody_else_does() -> Result<()> {
    let mut farm = farm()?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let message = attested(&farm, "NotEnrolled")?;
    ensure!(message.contains("stoke farm enroll machine/node-1"), "{message}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    ensure!(!farm.output(&["farm", "enroll", "machine/node-1", "--key", &wrong])?.status.success());
    let enrolled = farm.check(&["farm", "enroll", "machine/node-1"])?;
    ensure!(enrolled.contains("shall have the TPM sha256:"), "{enrolled}");
    let ready = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT);
    ready.map_err(|error| error.context(farm.console("node-1")))?;
    let message = attested(&farm, "Proven")?;
    ensure!(message.contains("Secure Boot off"), "{message}");
    let token = farm.check(&["ssh", "node-1", "--", "stat -c %a /etc/lab/token; cat /etc/lab/token"])?;
    ensure!(token == format!("600\n{SECRET}"), "{token}");
    let described = farm.check(&["describe", "machine", "node-1"])?;
    ensure!(described.contains("SecretsHandedOut"), "{described}");
    ensure!(!described.contains(SECRET) && !farm.console("node-1").contains(SECRET));
    // On disk it is where its owner has put it, and nowhere else.
    let found = Command::new("grep").args(["-rlF", SECRET]).arg(farm.state()).output()?;
    ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    // The TPM is the same in the next boot, and another kernel is found out.
    replace_kernel(&farm)?;
    farm.check(&["reboot", "node-1"])?;
    let message = attested(&farm, "Refused")?;
    ensure!(message.contains("register 11 is not that of this version's unified kernel image"), "{message}");
    nothing_is_given_away(&farm)?;
    farm.down()
}
