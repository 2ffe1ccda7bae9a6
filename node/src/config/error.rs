//! What is wrong with a configuration, in words that name the key, the value and what to write instead.

use std::{fmt, io, path::PathBuf};

use super::layers::Origin;

/// A value that does not fit its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got}; it takes {expected}")]
pub struct BadValue {
    /// What was given; not shown where it may be a secret.
    pub got: String,
    /// What is taken.
    pub expected: String,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is longer than a configuration can be.
    #[error("the configuration {path} has {got} bytes, at most {limit} are read", path = .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        got: u64,
        /// Longest.
        limit: u64,
    },
    /// The file is no TOML.
    #[error("the configuration {path} is no TOML: line {line}: {reason}", path = .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// What is wrong there. The line itself is not shown: it may hold a secret.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no key {key:?}{hint}; take it out, or pass --allow-unknown to ignore it")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// What was meant, if that can be guessed.
        hint: String,
    },
    /// A section that does not exist, or a key where a section should be.
    #[error("{origin}: {key:?} is {got}, but {expected}")]
    Shape {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// What stands there.
        got: &'static str,
        /// What should.
        expected: &'static str,
    },
    /// A value that does not fit.
    #[error("{origin}: {key} is {reason}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: BadValue,
    },
    /// A value that is needed is not there.
    #[error("{key} is not set: {remedy}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Two values that do not go together.
    #[error("{origin}: {key} is {got}, {reason}")]
    Conflict {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// Its value.
        got: String,
        /// Why that cannot be.
        reason: String,
    },
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [error] => write!(f, "{error}"),
            errors => {
                write!(f, "{} faults in the configuration:", errors.len())?;
                errors.iter().try_for_each(|error| write!(f, "\n  - {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        ConfigErrors(vec![error])
    }
}
