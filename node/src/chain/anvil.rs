//! Where the EVM of the devnet and of the tests is: anvil, of the Foundry tools.

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// Environment variable that names the program.
pub const ANVIL_VARIABLE: &str = "ZGPU_ANVIL";

/// There is no anvil.
#[derive(Debug, thiserror::Error)]
pub enum AnvilError {
    /// The variable names something that is not there.
    #[error("{ANVIL_VARIABLE} names {path}, which is no file")]
    Variable {
        /// What it names.
        path: PathBuf,
    },
    /// It was found nowhere.
    #[error(
        "anvil, a local EVM, was not found; run scripts/setup in the source tree, \
         or install Foundry so that anvil is in PATH, or set {ANVIL_VARIABLE} to the program"
    )]
    NotFound,
    /// The folder that the search starts from cannot be read.
    #[error("the current folder cannot be read: {0}")]
    Folder(#[from] io::Error),
}

/// Finds anvil: `ZGPU_ANVIL`, else the copy that scripts/setup installs in the source tree, else PATH.
pub fn find_anvil() -> Result<PathBuf, AnvilError> {
    if let Some(path) = env::var_os(ANVIL_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(AnvilError::Variable { path }) };
    }
    let program = env::current_exe().ok();
    let folders = [Some(env::current_dir()?), program];
    let in_tree = folders.iter().flatten().find_map(|folder| in_source_tree(folder));
    in_tree.or_else(|| in_search_path(&env::var_os("PATH")?)).ok_or(AnvilError::NotFound)
}

/// Looks in `folder` and every folder above it for an installed copy.
fn in_source_tree(folder: &Path) -> Option<PathBuf> {
    let system = match env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        other => other,
    };
    let machine = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let copy = format!(
        "node/contracts/node_modules/@foundry-rs/anvil-{system}-{machine}/bin/anvil{}",
        env::consts::EXE_SUFFIX
    );
    folder.ancestors().map(|folder| folder.join(&copy)).find(|path| path.is_file())
}

fn in_search_path(folders: &std::ffi::OsStr) -> Option<PathBuf> {
    let name = format!("anvil{}", env::consts::EXE_SUFFIX);
    env::split_paths(folders).map(|folder| folder.join(&name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs};

    use super::*;

    #[test]
    fn finds_it_in_the_tree_and_in_the_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("node/src");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(in_source_tree(&inner), None);
        assert_eq!(in_search_path(&OsString::from(folder.path())), None);

        let program = folder.path().join(format!("anvil{}", env::consts::EXE_SUFFIX));
        fs::write(&program, b"").unwrap();
        assert_eq!(in_search_path(&OsString::from(folder.path())), Some(program));
        if (env::consts::OS, env::consts::ARCH) == ("linux", "x86_64") {
            let copy = folder.path().join("node/contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::write(&copy, b"").unwrap();
            assert_eq!(in_source_tree(&inner), Some(copy));
        }
        assert!(AnvilError::NotFound.to_string().contains("scripts/setup"));
    }
}
