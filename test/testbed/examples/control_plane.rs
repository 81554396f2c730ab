//! Starts a cluster and keeps it until its input ends:
//! `cargo run -p testbed --example control_plane -- FOLDER [--controllers] [--nodes NUMBER] [--image ARCHIVE]…`.
//! The administrator's kubeconfig is written to the folder, and its path printed when all is ready. Beside it is a file `nodes`:
//! each node's name, address and process 1, for `nsenter`.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use testbed::kubernetes::{Cluster, ControlPlane, Options};

fn main() -> Result<()> {
    let (folder, mut controllers, mut nodes, mut images) = (folder()?, false, 0, Vec::new());
    let mut arguments = std::env::args_os().skip(2);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{} of what?", argument.display()));
        match argument.to_str() {
            Some("--controllers") => controllers = true,
            Some("--nodes") => nodes = number(&value()?)?,
            Some("--image") => images.push(PathBuf::from(value()?)),
            _ => bail!("{} is no option", argument.display()),
        }
    }
    if nodes == 0 {
        let plane = ControlPlane::start(Options { controllers, scheduler: controllers, ..Options::default() })?;
        return keep(&plane, &folder);
    }
    let cluster = Cluster::start(nodes)?;
    let mut list = Vec::new();
    for node in &cluster.nodes {
        images.iter().try_for_each(|image| node.import_image(image))?;
        writeln!(list, "{} {} {}", node.name(), node.address(), node.process())?;
    }
    fs_err::write(folder.join("nodes"), list)?;
    keep(&cluster.plane, &folder)
}

fn folder() -> Result<PathBuf> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("which folder may be written to?")?;
    fs_err::create_dir_all(&folder)?;
    Ok(folder)
}

fn number(text: &OsString) -> Result<u8> {
    text.to_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("{} is no number of nodes", text.display()))
}

fn keep(plane: &ControlPlane, folder: &std::path::Path) -> Result<()> {
    let file = folder.join("kubeconfig");
    plane.kubeconfig().write(&file)?;
    anstream::println!("{}", file.display());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
