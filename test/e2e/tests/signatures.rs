//! Farms that want signatures hand out what was signed, and what people choose; nothing else. Without guests.

use std::time::Duration;

use anyhow::ensure;
use e2e::{installation, object, publish_variant};
use serde_json::Value;
use testbed::{Installation, User, wait_for};

const LIMIT: Duration = Duration::from_mins(3);

/// A value of an object, by its path.
fn value(installation: &Installation, kind: &str, name: &str, at: &str) -> Value {
    installation.object(kind, name).ok().and_then(|object| object.pointer(at).cloned()).unwrap_or_default()
}

/// Waits until the farm hands out this version, and is ready.
fn hands_out(installation: &Installation, version: &str) -> anyhow::Result<()> {
    wait_for(&format!("{version} to be handed out"), LIMIT, || {
        let object = installation.object("farm", "lab")?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|one| one.get("type") == Some(&"Ready".into()) && one.get("status") == Some(&"True".into()));
        Ok((ready && object.pointer("/status/image") == Some(&version.into())).then_some(()))
    })
}

#[test]
fn a_farm_hands_out_what_its_keys_have_signed() -> anyhow::Result<()> {
    let mut installation = installation(User::Root, "", "")?;
    let key = installation.check(&["image", "keys", "create"])?;
    let key: Vec<_> = key.lines().map(|line| format!("    {line}\n")).collect();
    let spec = format!("  lan: lab\n  image: node\n  imageKeys:\n  - |\n{}", key.concat());
    installation.write("farm.yaml", &object("Farm", "lab", &spec))?;
    installation.up()?;
    let told = installation.wait_message("farm", "lab", LIMIT, |message| message.contains("is not signed"))?;
    ensure!(told.contains("sign it: stoke image sign node:"), "{told}");

    installation.check(&["image", "keys", "create", "other"])?;
    installation.check(&["image", "sign", "node", "--key", "other"])?;
    wait_for("the other key's signature", LIMIT, || {
        let signers = value(&installation, "image", "node", "/status/versions/0/signedBy");
        Ok(signers.as_array().filter(|signers| signers.len() == 1).map(|_| ()))
    })?;
    let served = value(&installation, "farm", "lab", "/status/image");
    ensure!(served.is_null(), "a stranger's signature is good for {served}");

    installation.check(&["image", "sign", "node"])?;
    let first = value(&installation, "image", "node", "/status/digest");
    let first = first.as_str().unwrap_or_default().to_owned();
    hands_out(&installation, &first)?;

    // A newer version waits for its signature; the older one goes on.
    let second = publish_variant(&installation.state().join("images"), "default/node", &["second=1"])?;
    wait_for("the newer version to be noticed", LIMIT, || {
        Ok((value(&installation, "image", "node", "/status/digest") == second.as_str()).then_some(()))
    })?;
    hands_out(&installation, &first)?;
    installation.check(&["image", "sign", &format!("node@{second}")])?;
    hands_out(&installation, &second)?;

    // And back again, until somebody says otherwise.
    installation.check(&["image", "rollback", "node"])?;
    hands_out(&installation, &first)?;
    let kinds = value(&installation, "image", "node", "/status/conditions").to_string();
    ensure!(kinds.contains("RolledBack"), "{kinds}");
    let listed = installation.check(&["image", "list", "-o", "wide"])?;
    ensure!(listed.contains("handed out (rolled back)") && listed.contains("farm/lab"), "{listed}");
    // Neither goes: the one is handed out, the other is the newest.
    installation.check(&["image", "prune", "--keep", "0"])?;
    let left = installation.check(&["image", "list", "-o", "name"])?;
    ensure!(left == format!("default/node@{second}\ndefault/node@{first}\n"), "{left}");
    installation.check(&["image", "rollback", "node", "--to", &second])?;
    hands_out(&installation, &second)?;
    installation.down()
}
