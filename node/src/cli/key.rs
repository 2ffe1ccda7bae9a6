//! Where a signing key comes from: a file, a keystore or the environment; never an argument.

use std::path::PathBuf;

use clap::Args;

use crate::chain::keys::{KeySource, PasswordSource};

/// The arguments that name a key.
#[derive(Args)]
pub(super) struct KeyArgs {
    /// File with the key: 64 hex digits.
    #[arg(long, value_name = "PATH", conflicts_with = "keystore")]
    key_file: Option<PathBuf>,
    /// Encrypted keystore with the key.
    #[arg(long, value_name = "PATH", requires = "password_file")]
    keystore: Option<PathBuf>,
    /// File with the keystore's password.
    #[arg(long, value_name = "PATH", requires = "keystore")]
    password_file: Option<PathBuf>,
}

impl KeyArgs {
    /// The key that is named, else that of the environment variable `variable` if it is set.
    pub(super) fn source(&self, variable: &str) -> Option<KeySource> {
        match (&self.key_file, &self.keystore, &self.password_file) {
            (Some(path), _, _) => Some(KeySource::HexFile(path.clone())),
            (None, Some(path), Some(password)) => {
                Some(KeySource::Keystore { path: path.clone(), password: PasswordSource::File(password.clone()) })
            }
            _ if std::env::var_os(variable).is_some() => Some(KeySource::Env(variable.into())),
            _ => None,
        }
    }
}
