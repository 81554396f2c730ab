//! Builds an image from a spec in JSON: `cargo run --example build -- SPEC.json STORE STOKE-INIT [NAME]`.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Instant;

use stoke_api::workload::ImageBuildConfig;
use stoke_image::{Progress, Store, Tools, farm_initramfs, farm_uki};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [spec, store, stoke_init, name @ ..] = arguments.as_slice() else {
        return Err("usage: build SPEC.json|- STORE STOKE-INIT [NAME]".into());
    };
    let mut text = String::new();
    match spec.as_str() {
        "-" => std::io::stdin().read_to_string(&mut text)?,
        path => fs_err::File::open(path)?.read_to_string(&mut text)?,
    };
    let name = name.first().map_or("default/node", String::as_str).to_owned();
    let config =
        ImageBuildConfig { name, spec: serde_json::from_str(&text)?, store: store.into(), bases: BTreeMap::new() };
    let (begin, mut stage) = (Instant::now(), String::new());
    let mut show = |progress: Progress| {
        if progress.stage != stage {
            eprintln!("{:7.2} s  {}", begin.elapsed().as_secs_f64(), progress.stage);
            stage = progress.stage;
        }
    };
    let image = stoke_image::build(&config, &Tools::of_host(stoke_init), &mut show).map_err(|error| {
        let field = error.field().map(|field| format!("{field}: ")).unwrap_or_default();
        Failure::from(format!("{field}{error}"))
    })?;
    eprintln!("{:7.2} s  done", begin.elapsed().as_secs_f64());
    let store = Store::open(store)?;
    let ca = farm_initramfs(&store, "-----BEGIN CERTIFICATE-----\n")?;
    let uki = farm_uki(&store, &image, &ca, None)?;
    println!("{}", serde_json::to_string_pretty(&image.for_farm(ca, Some(uki)))?);
    Ok(())
}
