//! The transcripts of open streams, replayed step by step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy knows only the functions marked so")]

mod sync_cases;

use std::{fs, path::PathBuf};

use serde_json::Value;

fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/sync");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    files.sort();
    files
}

/// One line per step, so that a change shows as a line.
fn write(transcripts: &[Value]) -> String {
    let one = |transcript: &Value| {
        let steps: Vec<_> = transcript["steps"].as_array().unwrap().iter().map(Value::to_string).collect();
        let head = ["name", "doc", "config"].map(|name| format!("  \"{name}\": {}", transcript[name]));
        format!("{{\n{},\n  \"steps\": [\n    {}\n  ]\n}}", head.join(",\n"), steps.join(",\n    "))
    };
    format!("[\n{}\n]\n", transcripts.iter().map(one).collect::<Vec<_>>().join(",\n"))
}

#[test]
fn what_comes_out_of_every_step_is_what_is_written() {
    let rewrite = std::env::var_os("DATASOLE_WRITE_VECTORS").is_some();
    let mut count = 0;
    for path in files() {
        let transcripts: Vec<Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let played: Vec<_> = transcripts.iter().map(sync_cases::play).collect();
        if rewrite {
            fs::write(&path, write(&played)).unwrap();
            continue;
        }
        for (written, played) in transcripts.iter().zip(&played) {
            let steps = written["steps"].as_array().unwrap().iter().zip(played["steps"].as_array().unwrap());
            for (number, (written_step, step)) in steps.enumerate() {
                assert_eq!(written_step, step, "step {number} of {:?} in {}", written["name"], path.display());
            }
            count += 1;
        }
    }
    assert!(rewrite || count >= 30, "{count} transcripts only");
}
