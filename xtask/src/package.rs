//! `cargo xtask package`: the tarballs that npm publishes; `cargo xtask sizes`: what pages load of them.

use std::{ffi::OsStr, path::PathBuf, process::Stdio};

use anyhow::{Context, Result};

use crate::{
    assets,
    command::{cargo, program, read, run, run_as_is},
    project,
};

/// Release, without what only debuggers read.
const PROFILE: &str = "dist";

/// Builds everything optimised and prints the tarballs' paths: the package, and the program for this machine.
pub(crate) fn print() -> Result<()> {
    assets::build()?;
    run(&mut cargo(["build", "--profile", PROFILE, "--package", "datasole-cli", "--bin", "datasole"]))?;
    for tarball in pack(PROFILE)? {
        println!("{}", tarball.display());
    }
    Ok(())
}

/// Packs the browser files and the program of a profile as they were built last.
pub(crate) fn pack(profile: &str) -> Result<Vec<PathBuf>> {
    let datasole = project::binary(profile, "datasole");
    let out = project::target().join("package").join(profile);
    let host = host()?;
    let args: [&OsStr; 4] = ["npm/pack.mjs".as_ref(), datasole.as_ref(), host.as_ref(), out.as_ref()];
    let paths = read(program("node").args(args).stderr(Stdio::inherit()))?;
    Ok(paths.lines().map(PathBuf::from).collect())
}

/// Measures the package as it was built last, and other clients, which are installed for that.
pub(crate) fn sizes() -> Result<()> {
    assets::build()?;
    run_as_is(program("node").arg("npm/sizes.mjs").arg(project::target().join("sizes")))
}

/// The platform for which Rust builds here.
fn host() -> Result<String> {
    let version = read(program("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say for which platform it builds")
}
