//! Size budgets: the most that a browser may have to load.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{
    assets::{brotli, gzip},
    project,
};

struct Budget {
    what: &'static str,
    /// In `npm`.
    files: &'static [&'static str],
    compression: &'static str,
    compress: fn(&[u8]) -> Result<Vec<u8>>,
    /// Bytes, the limit itself included.
    limit: usize,
}

const BUDGETS: [Budget; 5] = [
    Budget {
        what: "main thread, slim",
        files: &["dist/datasole.slim.iife.min.js"],
        compression: "gzip",
        compress: gzip,
        limit: 8 * 1024,
    },
    Budget {
        what: "main thread",
        files: &["dist/datasole.iife.min.js"],
        compression: "gzip",
        compress: gzip,
        limit: 12 * 1024 + 512,
    },
    Budget {
        what: "application with `datasole/slim`",
        files: &["generated/application.slim.js"],
        compression: "gzip",
        compress: gzip,
        limit: 8 * 1024,
    },
    Budget {
        what: "application with `datasole/client`",
        files: &["generated/application.client.js"],
        compression: "gzip",
        compress: gzip,
        limit: 12 * 1024 + 512,
    },
    Budget {
        what: "worker and wasm",
        files: &["dist/datasole-worker.v3.js", "dist/datasole.v3.wasm"],
        compression: "brotli",
        compress: brotli,
        limit: 64 * 1024,
    },
];

/// Prints the sizes; fails when one is over its budget.
pub(crate) fn check() -> Result<()> {
    let mut exceeded = Vec::new();
    for budget in &BUDGETS {
        let mut size = 0;
        for name in budget.files {
            let path = project::npm().join(name);
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            size += (budget.compress)(&content)?.len();
        }
        let Budget { what, compression, limit, .. } = budget;
        eprintln!("xtask: {what}: {size} bytes {compression}, at most {limit}");
        if size > *limit {
            exceeded.push(format!("{what} has {size} bytes {compression}, at most {limit} are allowed"));
        }
    }
    if !exceeded.is_empty() {
        bail!("size budget exceeded: {}", exceeded.join("; "));
    }
    Ok(())
}
