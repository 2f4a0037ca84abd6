//! Embeds the browser assets that `cargo xtask build` has put into `assets/`, so that an installed program has them.
//! Without them the crate builds all the same, and the route of the assets says so.

use std::{
    collections::BTreeSet,
    env, fs,
    hash::{DefaultHasher, Hasher},
    io,
    path::Path,
};

fn main() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let assets = Path::new(&root).join("assets");
    println!("cargo::rerun-if-changed=assets");
    let mut names = BTreeSet::new();
    if let Ok(entries) = fs::read_dir(&assets) {
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".br") && !name.ends_with(".gz") && !name.starts_with('.') {
                names.insert(name);
            }
        }
    }
    if names.is_empty() {
        println!("cargo::warning=the browser files are missing, pages cannot connect: run `cargo xtask build` before");
    }
    let mut table = String::from("&[\n");
    for name in names {
        let path = assets.join(&name);
        let mut hasher = DefaultHasher::new();
        hasher.write(&fs::read(&path)?);
        let include = |path: &Path| format!("include_bytes!({:?})", path.display().to_string());
        let encoded = |ending: &str| {
            let path = assets.join(format!("{name}.{ending}"));
            if path.exists() { format!("Some({})", include(&path)) } else { "None".into() }
        };
        table += &format!(
            "    Asset {{ name: {name:?}, hash: \"{:016x}\", plain: {}, brotli: {}, gzip: {} }},\n",
            hasher.finish(),
            include(&path),
            encoded("br"),
            encoded("gz"),
        );
    }
    table += "]\n";
    fs::write(Path::new(&out).join("assets.rs"), table)
}
