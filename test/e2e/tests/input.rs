//! Bad input: a clear error with the next step, and nothing half-done left behind.

use anyhow::ensure;
use testbed::{Installation, User, World};

fn refused(files: &[(&str, &str)], expected: &[&str]) -> anyhow::Result<()> {
    let installation = Installation::new(World::new()?, User::Root, None)?;
    for (name, text) in files {
        installation.write(name, text)?;
    }
    let objects = installation.world().folder().join("objects");
    let output = installation.output(&["up", &objects.to_string_lossy()])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it was accepted");
    for part in expected {
        ensure!(errors.contains(part), "{part:?} is not in:\n{errors}");
    }
    let links = installation.world().links()?;
    ensure!(links == ["lo"], "links were left behind: {links:?}");
    Ok(())
}

const LAN: &str = "apiVersion: stokehold.dev/v1alpha1\nkind: Lan\nmetadata: {name: lab}\nspec:\n  subnets:\n";

#[test]
fn all_problems_of_all_files_at_once() -> anyhow::Result<()> {
    let lan =
        format!("{LAN}  - {{name: v4, cidr: 10.10.0.0/24}}\n  - {{name: more, cidr: 10.10.0.128/25}}\n  egres: None\n");
    let broken = "apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {name: lab\n";
    let files = [("lan.yaml", lan.as_str()), ("farm.yaml", broken)];
    refused(&files, &["lan.yaml:7:", "overlaps", "egres", "egress", "farm.yaml:"])
}

#[test]
fn an_image_that_no_object_describes() -> anyhow::Result<()> {
    let lan = format!("{LAN}  - {{name: v4, cidr: 10.10.0.0/24}}\n");
    let farm = "apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {name: lab}\nspec: {lan: lab, image: nod}\n";
    refused(&[("lan.yaml", &lan), ("farm.yaml", farm)], &["farm.yaml:4:", "image", "nod"])
}
