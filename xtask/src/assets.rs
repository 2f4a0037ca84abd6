//! The browser files: the core as wasm, the npm package around it, the compressed copies that the server embeds, and the
//! script of the demo.
//!
//! Each step is skipped while its inputs stay the same ([`stamp`]). What the bundles contain is `npm/build.mjs`'s
//! business; this module only feeds it and packs what it makes.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use wasm_bindgen_cli_support::{Bindgen, Output};

use crate::{
    command::{cargo, program, run},
    project, stamp, tools,
};

/// The files that the server serves under its path, beside those of `npm/previous`: once a release has changed the version of
/// the worker protocol, that folder has worker, hub and wasm of the version before, for pages that are not new yet.
const SERVED: [&str; 12] = [
    "client.mjs",
    "worker.mjs",
    "datasole.iife.min.js",
    "datasole.slim.iife.min.js",
    "datasole-worker.v3.js",
    "datasole-worker.iife.min.js",
    "datasole-worker.inline.iife.min.js",
    "datasole-devtools.mjs",
    "datasole-probe.mjs",
    "datasole-shared.mjs",
    "datasole-hub.v3.mjs",
    "datasole.v3.wasm",
];

/// The smallest in brotli of what was tried: less inlining makes the file longer and the compressed file shorter. The
/// features are all that rustc lets LLVM emit for wasm32-unknown-unknown, and no more.
const WASM_OPT: [&str; 15] = [
    "-Oz",
    // The second pass knows what each function of the first one's does.
    "--generate-global-effects",
    "-Oz",
    "--low-memory-unused",
    "--always-inline-max-function-size=0",
    "--one-caller-inline-max-function-size=0",
    "--strip-producers",
    "--strip-target-features",
    "--enable-bulk-memory",
    "--enable-bulk-memory-opt",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// Brings all of them up to date.
pub(crate) fn build() -> Result<()> {
    tools::wasm_target()?;
    tools::node_modules()?;
    let raw = compile()?;
    bind(&raw)?;
    bundle()?;
    board()?;
    pack()
}

fn compile() -> Result<PathBuf> {
    run(&mut cargo(["build", "--package", "datasole-wasm", "--lib", "--profile", "wasm", "--target", project::WASM]))?;
    Ok(project::target().join(project::WASM).join("wasm/datasole_wasm.wasm"))
}

/// wasm-bindgen, then wasm-opt, into `npm/generated`.
fn bind(raw: &Path) -> Result<()> {
    let generated = project::generated();
    let wasm = generated.join("datasole_wasm_bg.wasm");
    let outputs = [generated.join("datasole_wasm.js"), generated.join("datasole_wasm.d.ts"), wasm.clone()];
    stamp::unless_fresh("wasm", &WASM_OPT.join(" "), &[raw.to_owned()], &outputs, || {
        let mut bound = Bindgen::new()
            .input_path(raw)
            .web(true)?
            .typescript(true)
            .omit_default_module_path(true)
            .remove_name_section(true)
            .remove_producers_section(true)
            .generate_output()?;
        if let Some(import) = bound.wasm().imports.iter().find(|import| import.module == "env") {
            bail!("the wasm imports `{}` from `env`: something in it expects an operating system", import.name);
        }
        // A core ends with its instance: what would free it is not kept.
        bound.wasm_mut().exports.remove("__wbg_core_free")?;
        let renamed = rename_imports(&mut bound)?;
        fs::create_dir_all(&generated)?;
        bound.emit(&generated)?;
        let mut glue = fs::read_to_string(&outputs[0])?;
        for (name, short) in renamed {
            glue = glue.replace(&name, &short);
        }
        fs::write(&outputs[0], glue)?;
        let optimiser = project::npm().join("node_modules/binaryen/bin/wasm-opt");
        run(program("node").arg(optimiser).args(WASM_OPT).arg(&wasm).arg("-o").arg(&wasm))
    })
}

/// Takes the hashes off the names of the wasm's imports, which do not compress: the old names and the new ones.
fn rename_imports(bound: &mut Output) -> Result<Vec<(String, String)>> {
    let mut renamed: Vec<(String, String)> = Vec::new();
    for import in bound.wasm_mut().imports.iter_mut() {
        let Some((short, _hash)) = import.name.rsplit_once('_').filter(|(_, hash)| hash.len() == 16) else { continue };
        if renamed.iter().any(|(_, other)| other == short) {
            bail!("two imports of the wasm are named `{short}`");
        }
        let short = short.to_owned();
        renamed.push((std::mem::replace(&mut import.name, short.clone()), short));
    }
    Ok(renamed)
}

/// `npm/build.mjs`: TypeScript and wasm into `npm/dist`.
fn bundle() -> Result<()> {
    let npm = project::npm();
    let inputs = [
        "src",
        "generated/datasole_wasm.js",
        "generated/datasole_wasm.d.ts",
        "generated/datasole_wasm_bg.wasm",
        "build.mjs",
        "package.json",
        "package-lock.json",
        "tsconfig.json",
        "tsconfig.build.json",
    ];
    let mut outputs: Vec<PathBuf> = SERVED.iter().map(|name| project::dist().join(name)).collect();
    outputs.extend(["slim", "client"].map(|entry| project::generated().join(format!("application.{entry}.js"))));
    stamp::unless_fresh("bundles", "", &inputs.map(|name| npm.join(name)), &outputs, || {
        run(program("node").arg("build.mjs").current_dir(&npm))
    })
}

/// `npm/board.mjs`: the script of the demo's board, as gzip only, for the program `datasole` to embed.
fn board() -> Result<()> {
    let (npm, assets) = (project::npm(), project::cli_assets());
    let inputs = ["src", "board.mjs", "package.json", "package-lock.json", "../cli/demo"];
    let packed = assets.join("board.js.gz");
    stamp::unless_fresh(
        "board of the demo",
        "",
        &inputs.map(|name| npm.join(name)),
        std::slice::from_ref(&packed),
        || {
            run(program("node").arg("board.mjs").current_dir(&npm))?;
            let script = fs::read(project::generated().join("board.js"))?;
            let content = gzip(&script)?;
            eprintln!("xtask: board of the demo: {} bytes, {} gzip", script.len(), content.len());
            fs::create_dir_all(&assets)?;
            fs::write(&packed, content).with_context(|| format!("cannot write {}", packed.display()))
        },
    )
}

/// The served files with their compressed siblings, for the server to embed.
fn pack() -> Result<()> {
    let assets = project::server_assets();
    let sources = sources(&project::npm().join("previous"))?;
    let packed = |source: &Path, suffix: &str| {
        assets.join(format!("{}{suffix}", source.file_name().unwrap_or_default().to_string_lossy()))
    };
    let outputs: Vec<PathBuf> =
        sources.iter().flat_map(|source| ["", ".br", ".gz"].map(|suffix| packed(source, suffix))).collect();
    stamp::unless_fresh("compressed assets", "", &sources, &outputs, || {
        if assets.exists() {
            fs::remove_dir_all(&assets)?;
        }
        fs::create_dir_all(&assets)?;
        for source in &sources {
            let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
            fs::write(packed(source, ".br"), brotli(&content)?)?;
            fs::write(packed(source, ".gz"), gzip(&content)?)?;
            fs::write(packed(source, ""), content)?;
        }
        Ok(())
    })
}

/// The served files: those of this version, and those that a folder keeps of the one before.
fn sources(previous: &Path) -> Result<Vec<PathBuf>> {
    let mut sources: Vec<PathBuf> = SERVED.iter().map(|name| project::dist().join(name)).collect();
    sources.extend(files(previous)?);
    Ok(sources)
}

/// The files of a folder that may not exist.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if folder.exists() {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Brotli at its highest quality.
pub(crate) fn brotli(content: &[u8]) -> Result<Vec<u8>> {
    let params = brotli::enc::BrotliEncoderParams { quality: 11, lgwin: 22, ..Default::default() };
    let mut packed = Vec::new();
    brotli::BrotliCompress(&mut &content[..], &mut packed, &params)?;
    Ok(packed)
}

/// Gzip at its highest level.
pub(crate) fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::{SERVED, sources};

    #[test]
    fn the_pair_of_the_version_before_is_served_beside_this_ones() {
        let folder = std::env::temp_dir().join(format!("datasole-previous-{}", std::process::id()));
        assert_eq!(sources(&folder).unwrap().len(), SERVED.len(), "before the first release there is none");
        std::fs::create_dir_all(&folder).unwrap();
        let pair = ["wasm.before", "worker.before"].map(|name| folder.join(name));
        for file in &pair {
            std::fs::write(file, "old").unwrap();
        }
        let served = sources(&folder).unwrap();
        assert_eq!(served[SERVED.len()..], pair);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
