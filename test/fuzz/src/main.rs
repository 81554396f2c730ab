//! Runs one target on changed inputs of its corpus, for some seconds: `fuzz TARGET SECONDS`. `cargo xtask fuzz` does better
//! where there is a C++ compiler.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fuzz::mutate::{Dice, mutate};
use fuzz::{TARGETS, Target};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, seconds] = words.as_slice() else { bail!("usage: fuzz TARGET SECONDS") };
    let target = TARGETS.iter().find(|target| target.name == name).with_context(|| format!("no target {name}"))?;
    let corpus = corpus(target)?;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let mut dice = Dice::new(u64::try_from(seed).unwrap_or_default());
    let (begun, limit) = (Instant::now(), Duration::from_secs(seconds.parse()?));
    let mut runs = 0_u64;
    while begun.elapsed() < limit {
        let mut pick = || corpus.get(dice.below(corpus.len())).cloned().unwrap_or_default();
        let (mut input, other) = (pick(), pick());
        mutate(&mut input, &other, &mut dice);
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            let path = std::env::temp_dir().join(format!("stokehold-fuzz-{name}"));
            fs_err::write(&path, &input)?;
            eprintln!("the input is in {}", path.display());
            return Ok(ExitCode::FAILURE);
        }
        runs += 1;
    }
    println!("{name}: {runs} inputs");
    Ok(ExitCode::SUCCESS)
}

fn corpus(target: &Target) -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut inputs = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        inputs.push(fs_err::read(entry?.path())?);
    }
    Ok(inputs)
}
