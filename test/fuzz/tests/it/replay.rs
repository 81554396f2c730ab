//! The corpora are replayed, and some mutations of them run, by whatever compiler builds the project.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz::mutate::{Dice, mutate};
use fuzz::{TARGETS, Target};

/// Mutations of each target: so many, or fewer on a slow machine that has spent [`ENOUGH`] on them.
const MUTATIONS: usize = 4000;
/// The fewest.
const LEAST: usize = 100;
const ENOUGH: Duration = Duration::from_secs(2);
/// Bytes of all corpora together.
const CORPORA: usize = 1 << 20;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder(target);
    let mut paths: Vec<_> = fs_err::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs = paths.into_iter().map(|path| (path.clone(), fs_err::read(path).unwrap()));
    inputs.collect()
}

#[test]
fn every_input_of_the_corpora_passes() {
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for (path, input) in corpus {
            // The name is on standard error if the target panics.
            eprintln!("{}", path.display());
            (target.run)(&input);
        }
    }
}

#[test]
fn changed_inputs_pass() {
    for target in TARGETS {
        let corpus = corpus(target);
        let mut dice = Dice::new(target.name.len() as u64 + 1);
        let begun = Instant::now();
        for number in 0..MUTATIONS {
            if number >= LEAST && begun.elapsed() > ENOUGH {
                break;
            }
            let (_, mut input) = corpus[dice.below(corpus.len())].clone();
            let (_, other) = &corpus[dice.below(corpus.len())];
            mutate(&mut input, other, &mut dice);
            let outcome = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(outcome.is_ok(), "{} fails on {input:?}", target.name);
        }
    }
}

#[test]
fn each_target_has_its_program_and_the_corpora_are_small() {
    let programs = fs_err::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(programs.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.name)), "{}", target.name);
    }
    let bytes: usize = TARGETS.iter().flat_map(corpus).map(|(_, input)| input.len()).sum();
    assert!(bytes <= CORPORA, "{bytes} bytes; merge them");
}
