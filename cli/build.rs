//! Embeds the script of the demo's board, which `cargo xtask build` makes. Without it the program builds all the same, and
//! the board's page says so.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    println!("cargo::rerun-if-changed=assets");
    let board = Path::new(&root).join("assets/board.js.gz");
    if !board.exists() {
        println!("cargo::warning=the script of the demo's board is missing: run `cargo xtask build` before");
    }
    let include =
        if board.exists() { format!("Some(include_bytes!({:?}))", board.display().to_string()) } else { "None".into() };
    fs::write(Path::new(&out).join("board.rs"), include)
}
