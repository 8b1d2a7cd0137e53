//! Replays the fuzz corpus on stable Rust, through the very functions the fuzz targets call. Files
//! named `good-` must be taken; no other may panic.

use std::{collections::BTreeMap, fs, path::Path};

#[path = "../../../tests/fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library where libFuzzer drives it")]
mod targets;

/// Bounds that keep a clone small.
const MAX_FILES: usize = 200;
const MAX_OCTETS: usize = 300 << 10;

fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus");
    let folder = Path::new(folder).join(target);
    let entries = fs::read_dir(&folder).expect("the corpus of the target");
    entries
        .map(|entry| {
            let entry = entry.expect("a readable folder");
            let name = entry.file_name().into_string().expect("an ASCII name");
            (name, fs::read(entry.path()).expect("a readable file"))
        })
        .collect()
}

fn replay(target: &str, run: fn(&[u8]) -> bool) {
    let corpus = corpus(target);
    let octets: usize = corpus.values().map(Vec::len).sum();
    assert!(corpus.len() < MAX_FILES, "{} files", corpus.len());
    assert!(octets < MAX_OCTETS, "{octets} octets");
    let (mut good, mut refused) = (0, 0);
    for (name, input) in &corpus {
        let taken = run(input);
        if name.starts_with("good-") {
            assert!(taken, "{target}/{name}");
            good += 1;
        }
        refused += usize::from(!taken);
        // Longer and shorter than they were, the same inputs must not break anything either.
        for end in (0..input.len()).step_by(input.len() / 64 + 1) {
            run(&input[..end]);
        }
        run(&[input.as_slice(), &[0; 7]].concat());
    }
    assert!(good >= 5 && refused >= 5, "{good} good, {refused} refused");
}

#[test]
fn messages_and_payload_chains() {
    replay("wire", targets::wire);
}

#[test]
fn tickets_and_their_states() {
    replay("ticket", targets::ticket);
}

#[test]
fn frames() {
    replay("classify", targets::classify);
}

#[test]
fn certificates() {
    replay("certificate", targets::certificate);
}
