//! Skipping a build step whose inputs have not changed since it last succeeded.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::project;

/// Runs `step` unless the content of `inputs` (files, or folders with all they hold) is what it was when the step last
/// succeeded and every one of `outputs` exists. `settings` stands for what the step does with its inputs.
pub(crate) fn unless_fresh(
    name: &str,
    settings: &str,
    inputs: &[PathBuf],
    outputs: &[PathBuf],
    step: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stamp = project::scratch().join(format!("{name}.stamp"));
    let fingerprint = fingerprint(settings, inputs)?;
    let fresh = fs::read_to_string(&stamp).is_ok_and(|last| last == fingerprint);
    if fresh && outputs.iter().all(|output| output.exists()) {
        return Ok(());
    }
    eprintln!("xtask: {name}");
    step()?;
    fs::create_dir_all(project::scratch())?;
    fs::write(&stamp, fingerprint).with_context(|| format!("cannot write {}", stamp.display()))
}

fn fingerprint(settings: &str, inputs: &[PathBuf]) -> Result<String> {
    let mut files = BTreeSet::new();
    for input in inputs {
        collect(input, &mut files)?;
    }
    let mut hasher = DefaultHasher::new();
    settings.hash(&mut hasher);
    for file in &files {
        file.hash(&mut hasher);
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        if path.exists() {
            files.insert(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn a_fingerprint_depends_on_settings_names_and_content() {
        let dir = std::env::temp_dir().join(format!("datasole-stamp-{}", std::process::id()));
        let (inner, other) = (dir.join("inner"), dir.join("inner/b"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("a"), "1").unwrap();
        let inputs = [dir.clone(), dir.join("missing")];
        let first = fingerprint("s", &inputs).unwrap();
        assert_eq!(fingerprint("s", &inputs).unwrap(), first, "the same again");
        assert_ne!(fingerprint("t", &inputs).unwrap(), first, "other settings");
        std::fs::write(inner.join("a"), "2").unwrap();
        let second = fingerprint("s", &inputs).unwrap();
        assert_ne!(second, first, "other content");
        std::fs::rename(inner.join("a"), other).unwrap();
        assert_ne!(fingerprint("s", &inputs).unwrap(), second, "another name");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
