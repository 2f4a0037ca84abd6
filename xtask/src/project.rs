//! Where things are. Every path is absolute, so that no command depends on the folder it was called from.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The target of browsers.
pub(crate) const WASM: &str = "wasm32-unknown-unknown";

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The npm package.
pub(crate) fn npm() -> PathBuf {
    root().join("npm")
}

/// What wasm-bindgen writes and the bundles import.
pub(crate) fn generated() -> PathBuf {
    npm().join("generated")
}

/// The built npm package.
pub(crate) fn dist() -> PathBuf {
    npm().join("dist")
}

/// The browser files that the server embeds.
pub(crate) fn server_assets() -> PathBuf {
    root().join("server-reference/assets")
}

/// The demo's script, which the program `datasole` embeds.
pub(crate) fn cli_assets() -> PathBuf {
    root().join("cli/assets")
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Logs, stamps and other traces of this program.
pub(crate) fn scratch() -> PathBuf {
    target().join("xtask")
}

/// A built program of any of the crates; `profile` is the folder's name: `debug` or `release`.
pub(crate) fn binary(profile: &str, name: &str) -> PathBuf {
    target().join(profile).join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// A built example of any of the crates.
pub(crate) fn example(profile: &str, name: &str) -> PathBuf {
    binary(profile, &format!("examples/{name}"))
}

/// A file that an earlier step has made.
pub(crate) fn built(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "{} is missing: an earlier step has not built it", path.display());
    Ok(path)
}
