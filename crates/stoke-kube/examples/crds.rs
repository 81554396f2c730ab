//! Writes the definitions of all kinds as YAML into a folder: what `cargo xtask crds` runs.

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| anyhow::anyhow!("name the folder"))?;
    fs_err::create_dir_all(&folder)?;
    for (name, text) in stoke_kube::crd::files() {
        let path = folder.join(name);
        fs_err::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
