//! The checks that read code instead of running it: clippy, rustdoc, the toolchain, the core's dependencies.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    command::{cargo, program, read},
    project,
    report::Report,
    test::Extent,
};

/// Packages that the sans-IO core must never depend on: randomness, the browser, a runtime.
const FORBIDDEN_IN_CORE: [&str; 6] = ["getrandom", "js-sys", "web-sys", "wasm-bindgen", "tokio", "rand"];

/// Runs all of them.
pub(crate) fn run(report: &mut Report, extent: Extent) {
    report.check("clippy", clippy(&["--workspace", "--all-targets"]));
    for package in ["datasole-wasm", "datasole-client"] {
        report.check(
            &format!("clippy {package} wasm"),
            clippy(&["--package", package, "--all-features", "--target", project::WASM]),
        );
    }
    let mut packages = Vec::new();
    report.task("rust-version", || {
        packages = metadata()?;
        toolchain(&packages)
    });
    for package in &packages {
        for set in feature_sets(&package.features, extent) {
            report.check(&format!("clippy {} {}", package.name, set.label()), clippy(&set.args(&package.name)));
        }
    }
    report.task("dependencies of the core", core_is_pure);
    let mut doc = cargo(["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    report.check("documentation", doc);
}

fn clippy<S: AsRef<str>>(args: &[S]) -> Command {
    let args = args.iter().map(AsRef::as_ref);
    cargo(["clippy"].into_iter().chain(args).chain(["--", "-D", "warnings"]))
}

/// A package of the workspace.
struct Package {
    name: String,
    rust_version: String,
    features: Features,
}

/// A package's public features, and whether it has default ones. Names that begin with `__` are private: no use alone.
struct Features {
    names: Vec<String>,
    has_default: bool,
}

fn metadata() -> Result<Vec<Package>> {
    let text = read(&mut cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    packages.iter().map(package).collect()
}

fn package(package: &Value) -> Result<Package> {
    let name = package["name"].as_str().context("cargo metadata has a package without a name")?.to_owned();
    let rust_version =
        package["rust_version"].as_str().with_context(|| format!("{name} has no rust-version"))?.to_owned();
    let features = package["features"].as_object().with_context(|| format!("{name} has no list of features"))?;
    let has_default = features.get("default").and_then(Value::as_array).is_some_and(|names| !names.is_empty());
    let names = features.keys().filter(|name| *name != "default" && !name.starts_with("__")).cloned().collect();
    Ok(Package { name, rust_version, features: Features { names, has_default } })
}

/// `rust-version` is the oldest Rust that builds the workspace: only a run on that very version shows it.
fn toolchain(packages: &[Package]) -> Result<()> {
    let version = read(program("rustc").arg("--version"))?;
    let used = version.split(' ').nth(1).context("rustc names no version")?;
    match packages.iter().find(|package| !is_release(used, &package.rust_version)) {
        Some(Package { name, rust_version, .. }) => bail!(
            "{name} has rust-version {rust_version}, but this is Rust {used}: run `rustup run {rust_version} cargo xtask \
             test`, or change rust-version in Cargo.toml"
        ),
        None => Ok(()),
    }
}

/// Whether `used`, such as `1.95.0`, is a release of `minor`, such as `1.95`.
fn is_release(used: &str, minor: &str) -> bool {
    used.strip_prefix(minor).is_some_and(|rest| {
        rest.strip_prefix('.').is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// The features that one run of clippy has.
#[derive(Debug, PartialEq, Eq)]
enum Set {
    Default,
    Only(Vec<String>),
}

impl Set {
    fn label(&self) -> String {
        match self {
            Self::Default => "[default]".to_owned(),
            Self::Only(names) => format!("[{}]", names.join(",")),
        }
    }

    fn args(&self, package: &str) -> Vec<String> {
        let mut args = vec!["--package".to_owned(), package.to_owned()];
        if package == "datasole-wasm" {
            args.extend(["--target".to_owned(), project::WASM.to_owned()]);
        }
        if let Self::Only(names) = self {
            args.extend(["--no-default-features".to_owned(), "--features".to_owned(), names.join(",")]);
        }
        args
    }
}

/// The sets of a package: its default and all of its features; with [`Extent::All`] none and each alone, too. Nothing
/// for a package without features: the workspace's run has it.
fn feature_sets(features: &Features, extent: Extent) -> Vec<Set> {
    let Features { names, has_default } = features;
    if names.is_empty() {
        return Vec::new();
    }
    let mut sets = vec![Set::Default];
    if extent == Extent::All {
        if *has_default {
            sets.push(Set::Only(Vec::new()));
        }
        if names.len() > 1 {
            sets.extend(names.iter().map(|name| Set::Only(vec![name.clone()])));
        }
    }
    sets.push(Set::Only(names.clone()));
    sets
}

fn core_is_pure() -> Result<()> {
    let args = ["tree", "--package", "datasole-core", "--all-features", "--edges", "normal", "--prefix", "none"];
    let tree = read(cargo(args).args(["--target", project::WASM]))?;
    let found = tree.lines().filter_map(|line| line.split(' ').next()).find(|name| FORBIDDEN_IN_CORE.contains(name));
    if let Some(name) = found {
        bail!("datasole-core depends on {name}, and must not");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stable_releases_of_the_version_count() {
        for (used, minor, same) in [
            ("1.95.0", "1.95", true),
            ("1.95.3", "1.95", true),
            ("1.96.0", "1.95", false),
            ("1.9.0", "1.95", false),
            ("1.95.0-nightly", "1.95", false),
            ("1.950.0", "1.95", false),
            ("1.95", "1.95", false),
        ] {
            assert_eq!(is_release(used, minor), same, "{used} {minor}");
        }
    }

    #[test]
    fn each_feature_alone_is_for_the_long_run() {
        let only = |names: &[&str]| Set::Only(names.iter().map(|name| (*name).to_owned()).collect());
        let features = |names: &[&str], has_default| Features {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            has_default,
        };
        let two = features(&["docs", "tls"], true);
        assert_eq!(feature_sets(&two, Extent::Usual), [Set::Default, only(&["docs", "tls"])]);
        assert_eq!(
            feature_sets(&two, Extent::All),
            [Set::Default, only(&[]), only(&["docs"]), only(&["tls"]), only(&["docs", "tls"])]
        );
        let one = features(&["direct"], false);
        assert_eq!(feature_sets(&one, Extent::All), [Set::Default, only(&["direct"])]);
        assert_eq!(feature_sets(&features(&[], false), Extent::All), []);
    }

    #[test]
    fn private_features_are_in_no_set() {
        let described = serde_json::json!({
            "name": "p",
            "rust_version": "1.95",
            "features": { "default": ["a"], "a": ["__b"], "__b": [] },
        });
        let package = package(&described).unwrap();
        assert_eq!((package.features.names, package.features.has_default), (vec!["a".to_owned()], true));
    }
}
