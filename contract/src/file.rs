//! The TypeScript module as a file that a test keeps up to date.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{Contract, ContractError, typescript};

/// The reason why a file is not the contract's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The types are no contract.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The file is an older one, or another's.
    #[error(
        "{path} is not what the contract says: run this test once with DATASOLE_WRITE=1. The first line that differs, {line}:\n- {old}\n+ {new}"
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1 on.
        line: usize,
        /// The line in the file.
        old: String,
        /// The line of the contract.
        new: String,
    },
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// Compares a file with the contract's TypeScript; with `DATASOLE_WRITE=1` in the environment it is written instead. For a
/// test of the crate that holds the contract:
///
/// ```no_run
/// # mod app { datasole_contract::contract! { pub App {} } }
/// # use app::App;
/// #[test]
/// fn the_browser_has_this_contract() -> Result<(), datasole_contract::file::FileError> {
///     datasole_contract::file::check::<App>("../web/src/contract.ts")
/// }
/// # fn main() {}
/// ```
///
/// # Errors
///
/// Fails where the file differs, naming the first line, or cannot be read or written.
pub fn check<C: Contract>(path: impl AsRef<Path>) -> Result<(), FileError> {
    compare::<C>(path.as_ref(), env::var_os("DATASOLE_WRITE").is_some_and(|value| value == "1"))
}

fn compare<C: Contract>(path: &Path, write: bool) -> Result<(), FileError> {
    let new = typescript::<C>()?;
    let io = |error| FileError::Io { path: path.to_owned(), error };
    let old = match fs::read_to_string(path) {
        Ok(text) => text.replace("\r\n", "\n"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(io(error)),
    };
    if old == new {
        return Ok(());
    }
    if write {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        return fs::write(path, new).map_err(io);
    }
    let same = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or_default().to_owned();
    Err(FileError::Differs { path: path.to_owned(), line: same + 1, old: line(&old), new: line(&new) })
}

#[cfg(test)]
mod tests {
    use super::*;

    mod app {
        crate::contract! { pub(super) App { docs { Notes = "notes"; } } }
    }

    #[test]
    fn a_file_is_written_once_and_compared() {
        let folder = env::temp_dir().join(format!("datasole-contract-{}", std::process::id()));
        let path = folder.join("web/contract.ts");
        assert!(matches!(compare::<app::App>(&path, false), Err(FileError::Differs { line: 1, .. })));
        compare::<app::App>(&path, true).unwrap();
        compare::<app::App>(&path, false).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace('\n', "\r\n")).unwrap();
        compare::<app::App>(&path, false).unwrap();
        fs::write(&path, text.replace("notes", "note")).unwrap();
        let error = compare::<app::App>(&path, false).unwrap_err().to_string();
        assert!(error.contains("-     note: true;\n+     notes: true;"), "{error}");
        assert!(error.contains("DATASOLE_WRITE=1"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
