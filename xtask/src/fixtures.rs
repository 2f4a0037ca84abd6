//! The fixtures of `tests/fixtures`: pages and programs that install the packed package, as everybody would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::{program, read, run},
    package, page, project, stamp,
    test::Extent,
    tools,
};

/// The long run's own, in `tests/fixtures`.
const LONG: [&str; 1] = ["frameworks.test.mjs"];
/// Some tools need a Node as new as this.
const NODE_MAJOR: u32 = 22;

/// The tarballs, installed with the tools that the fixtures need.
pub(crate) struct Installed {
    tarballs: Vec<PathBuf>,
    node: PathBuf,
}

impl Installed {
    /// Packs what the dev profile has built, and installs it.
    pub(crate) fn new(extent: Extent) -> Result<Self> {
        let tarballs = package::pack("debug")?;
        install("fixtures", &home(), &tarballs)?;
        if extent == Extent::All {
            install("fixtures/frameworks", &home().join("frameworks"), &tarballs)?;
        }
        Ok(Self { tarballs, node: node()? })
    }

    /// Runs the fixtures; those that only the long run installs skip themselves, and are left out of others.
    pub(crate) fn command(&self, extent: Extent) -> Result<Command> {
        let folder = project::root().join("tests/fixtures");
        let mut specs = tools::specs(&folder)?;
        if extent == Extent::Usual {
            specs.retain(|path| !LONG.iter().any(|name| path.ends_with(name)));
            println!("   without {}, which `cargo xtask test --all` runs", LONG.join(", "));
        }
        let tarballs: Vec<_> = self.tarballs.iter().map(|path| path.to_string_lossy()).collect();
        let mut command = program(&self.node);
        command.args(["--test", "--test-concurrency=1", "--test-reporter=tap"]).args(specs);
        command.env("FIXTURES", home()).env("TARBALLS", tarballs.join(",")).env("NODE", "node");
        command.env("CHROMIUM", tools::chromium()?).envs(tools::browsers()?);
        command.env("FIXTURE", project::built(project::example("debug", "fixture"))?);
        command.env("DATASOLE_SERVER", project::built(project::binary("debug", "datasole"))?);
        command.env("RUST_PAGE", page::build()?);
        Ok(command)
    }
}

fn home() -> PathBuf {
    project::target().join("fixtures")
}

/// The packages of `tests/NAME/package.json` and the tarballs, into a folder.
fn install(name: &str, folder: &Path, tarballs: &[PathBuf]) -> Result<()> {
    const QUIETLY: [&str; 5] = ["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"];
    let manifest = project::root().join("tests").join(name).join("package.json");
    let installed = folder.join("node_modules/.package-lock.json");
    stamp::unless_fresh(&name.replace('/', " "), "", std::slice::from_ref(&manifest), &[installed], || {
        fs::create_dir_all(folder)?;
        fs::copy(&manifest, folder.join("package.json"))?;
        run(&mut tools::npm_in(folder, &QUIETLY))
    })?;
    run(tools::npm_in(folder, &QUIETLY).args(["--no-save", "--offline"]).args(tarballs))
}

/// The machine's Node, or the one of the fixtures' packages where that is too old.
fn node() -> Result<PathBuf> {
    if tools::node_major().is_some_and(|major| major >= NODE_MAJOR) {
        return Ok("node".into());
    }
    let platform = read(program("node").args(["--print", "`node-${process.platform}-${process.arch}`"]))?;
    project::built(home().join("node_modules").join(platform.trim()).join("bin/node"))
}
