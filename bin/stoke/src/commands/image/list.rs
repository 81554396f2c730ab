//! `stoke image list`.

use std::process::ExitCode;

use stoke_image::Store;

use crate::failure::Failure;
use crate::folders::Folders;
use crate::output::{self, Table};

pub(super) fn run(folders: &Folders) -> anyhow::Result<ExitCode> {
    let path = folders.images();
    if !path.exists() {
        return Err(Failure::hinted(
            format!("there are no images at {}", path.display()),
            "build one: stoke image build FILE",
        ));
    }
    let mut table = Table::new(&["NAME", "DIGEST", "SIZE", "KERNEL"]);
    for (name, image) in Store::open(&path)?.list()? {
        table.row(vec![name, image.digest.short(), output::size(image.size), image.kernel_version]);
    }
    output::print(&table.render(""))?;
    Ok(ExitCode::SUCCESS)
}
