//! The example page in Rust only, built as an application would be, for the browser tests.

use std::path::PathBuf;

use anyhow::Result;
use wasm_bindgen_cli_support::Bindgen;

use crate::{
    command::{cargo, run},
    project, stamp, tools,
};

/// The page's folder.
pub(crate) const FOLDER: &str = "examples/rust-page";

/// Builds the page and prints the folder of its files.
pub(crate) fn print() -> Result<()> {
    tools::wasm_target()?;
    println!("{}", build()?.display());
    Ok(())
}

/// Builds the page; tells the folder of its files.
pub(crate) fn build() -> Result<PathBuf> {
    let (root, target) = (project::root().join(FOLDER), project::target());
    let arguments = ["build", "--locked", "--target", project::WASM, "--target-dir"];
    run(cargo(arguments).arg(&target).current_dir(&root))?;
    let (raw, built) = (target.join(project::WASM).join("debug/rust_page.wasm"), target.join("rust-page"));
    let (page, bound) = (root.join("index.html"), built.join("pkg"));
    let outputs = [built.join("index.html"), bound.join("rust_page.js"), bound.join("rust_page_bg.wasm")];
    stamp::unless_fresh("page in Rust only", "", &[raw.clone(), page.clone()], &outputs, || {
        Bindgen::new()
            .input_path(&raw)
            .web(true)?
            .omit_default_module_path(false)
            .typescript(false)
            .generate(&bound)?;
        std::fs::copy(&page, &outputs[0])?;
        Ok(())
    })?;
    Ok(built)
}
