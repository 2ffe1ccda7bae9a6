//! The key that signs transactions, from a keystore, a file or the environment; never from the command line, never shown.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
};

use alloy::{
    primitives::Address,
    signers::local::{LocalSignerError, PrivateKeySigner},
};

/// Longest file that is read as a key, a password or a keystore, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where a signing key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// An encrypted keystore file (version 3, as geth and foundry write it).
    Keystore {
        /// The file.
        path: PathBuf,
        /// Its password.
        password: PasswordSource,
    },
    /// A file with 64 hex digits, with or without 0x in front.
    HexFile(PathBuf),
    /// An environment variable with 64 hex digits, with or without 0x in front.
    Env(String),
}

/// Where the password of a keystore comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// A file; a line break at its end is not part of the password.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// A signing key. Only its address can be seen.
#[derive(Clone)]
pub struct Key {
    signer: PrivateKeySigner,
}

/// Why there is no key. No variant holds any part of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file is not there.
    #[error("there is no {what} at {path}")]
    Missing {
        /// Key file, keystore or password file.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("the {what} at {path} cannot be read: {reason}")]
    Unreadable {
        /// Key file, keystore or password file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// A file is too long for what it should be.
    #[error("the {what} at {path} has {got} bytes, at most {MAX_FILE_BYTES} are read")]
    TooLong {
        /// Key file, keystore or password file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        got: u64,
    },
    /// An environment variable is not set, or is no text.
    #[error("the environment variable {name} is not set")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// The wrong number of digits.
    #[error("{origin}: a key has 64 hex digits, got {got} characters")]
    Length {
        /// File or variable.
        origin: String,
        /// Characters in it.
        got: usize,
    },
    /// Some character is no hex digit.
    #[error("{origin}: character {index} of the key is no hex digit")]
    Digit {
        /// File or variable.
        origin: String,
        /// Its place, behind an 0x if there is one.
        index: usize,
    },
    /// 0, or not below the order of the curve.
    #[error("{origin}: the number is no key of the curve")]
    OutOfRange {
        /// File or variable.
        origin: String,
    },
    /// The keystore does not open.
    #[error("the password from {password} does not open the keystore at {path}")]
    WrongPassword {
        /// The keystore.
        path: PathBuf,
        /// Where the password came from.
        password: String,
    },
    /// The file is no keystore.
    #[error("the file at {path} is no keystore: {reason}")]
    Keystore {
        /// The keystore.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl From<PrivateKeySigner> for Key {
    fn from(signer: PrivateKeySigner) -> Self {
        Key { signer }
    }
}

impl Key {
    /// Loads a key. Warns in the log when a file with it can be read by others.
    pub fn load(source: &KeySource) -> Result<Self, KeyError> {
        match source {
            KeySource::Keystore { path, password } => open_keystore(path, password),
            KeySource::HexFile(path) => {
                let text = read_file("key file", path)?;
                parse(&format!("the key file at {}", path.display()), &text)
            }
            KeySource::Env(name) => parse(&format!("the environment variable {name}"), &variable(name)?),
        }
    }

    /// Reads 64 hex digits, with or without 0x in front. `origin` says in errors where they stand.
    pub fn from_hex(origin: &str, text: &str) -> Result<Self, KeyError> {
        parse(origin, text)
    }

    /// The account that the key signs for.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// The signer, for what signs.
    pub(crate) fn signer(&self) -> &PrivateKeySigner {
        &self.signer
    }
}

fn open_keystore(path: &Path, password: &PasswordSource) -> Result<Key, KeyError> {
    // Read once here for the errors: the keystore library tells all of them apart by text only.
    read_file("keystore", path)?;
    let (secret, origin) = match password {
        PasswordSource::File(file) => {
            let text = read_file("password file", file)?;
            (text.trim_end_matches(['\r', '\n']).to_owned(), format!("the file {}", file.display()))
        }
        PasswordSource::Env(name) => (variable(name)?, format!("the environment variable {name}")),
    };
    match PrivateKeySigner::decrypt_keystore(path, secret) {
        Ok(signer) => Ok(Key { signer }),
        Err(LocalSignerError::EthKeystoreError(error)) if error.to_string().contains("Mac Mismatch") => {
            Err(KeyError::WrongPassword { path: path.to_owned(), password: origin })
        }
        Err(error) => Err(KeyError::Keystore { path: path.to_owned(), reason: error.to_string() }),
    }
}

fn variable(name: &str) -> Result<String, KeyError> {
    env::var(name).map_err(|_| KeyError::NoVariable { name: name.to_owned() })
}

fn read_file(what: &'static str, path: &Path) -> Result<String, KeyError> {
    let fail = |reason: io::Error| match reason.kind() {
        io::ErrorKind::NotFound => KeyError::Missing { what, path: path.to_owned() },
        _ => KeyError::Unreadable { what, path: path.to_owned(), reason },
    };
    let got = fs::metadata(path).map_err(fail)?.len();
    if got > MAX_FILE_BYTES {
        return Err(KeyError::TooLong { what, path: path.to_owned(), got });
    }
    if let Some(mode) = open_to_others(path).map_err(fail)? {
        tracing::warn!("the {what} at {} can be read by others (mode {mode:03o}); run chmod 600 on it", path.display());
    }
    fs::read_to_string(path).map_err(fail)
}

/// The file's permission bits, if others than its owner can read it. Always `None` where files have no such bits.
#[cfg(unix)]
pub fn open_to_others(path: &Path) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

/// The file's permission bits, if others than its owner can read it. Always `None` where files have no such bits.
#[cfg(not(unix))]
pub fn open_to_others(_path: &Path) -> io::Result<Option<u32>> {
    Ok(None)
}

fn parse(origin: &str, text: &str) -> Result<Key, KeyError> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let got = digits.chars().count();
    if got != 64 {
        return Err(KeyError::Length { origin: origin.to_owned(), got });
    }
    let mut secret = [0u8; 32];
    for (index, digit) in digits.chars().enumerate() {
        let value = digit.to_digit(16).ok_or_else(|| KeyError::Digit { origin: origin.to_owned(), index })?;
        secret[index / 2] = secret[index / 2] << 4 | value as u8;
    }
    let signer = PrivateKeySigner::from_slice(&secret);
    secret.fill(0);
    Ok(Key { signer: signer.map_err(|_| KeyError::OutOfRange { origin: origin.to_owned() })? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Web3 secret storage definition: password "testpassword".
    const KEYSTORE: &str = r#"{
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": { "iv": "6087dab2f9fdbbfaddc31a909735c1e6" },
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3
    }"#;
    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const ADDRESS: &str = "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Folder(tempfile::tempdir().unwrap())
        }
        fn file(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    fn error(source: KeySource) -> KeyError {
        let error = Key::load(&source).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains(&SECRET[..16]) && !text.contains("testpassword"), "{text}");
        error
    }

    #[test]
    fn all_sources_give_the_same_key_and_never_show_it() {
        let folder = Folder::new();
        let keystore = folder.file("keystore.json", KEYSTORE);
        let password = PasswordSource::File(folder.file("password", "testpassword\n"));
        for source in [
            KeySource::Keystore { path: keystore, password },
            KeySource::HexFile(folder.file("hex", &format!("0x{SECRET}\n"))),
            KeySource::HexFile(folder.file("plain", SECRET)),
        ] {
            let key = Key::load(&source).unwrap();
            assert_eq!(key.address().to_string(), ADDRESS);
            let shown = format!("{key:?}");
            assert!(shown.contains(&ADDRESS.to_lowercase()) && !shown.contains(&SECRET[..8]), "{shown}");
        }
    }

    #[test]
    fn wrong_passwords_and_broken_keystores_are_told_apart() {
        let folder = Folder::new();
        let path = folder.file("keystore.json", KEYSTORE);
        let password = PasswordSource::File(folder.file("password", "testpassworD"));
        let wrong = error(KeySource::Keystore { path: path.clone(), password: password.clone() });
        assert!(matches!(wrong, KeyError::WrongPassword { .. }), "{wrong}");
        let path = folder.file("broken.json", "{}");
        assert!(matches!(error(KeySource::Keystore { path, password }), KeyError::Keystore { .. }));
        let path = folder.file("keystore.json", KEYSTORE);
        let password = PasswordSource::Env("ZGPU_TEST_NO_SUCH_VARIABLE".to_owned());
        assert!(matches!(error(KeySource::Keystore { path, password }), KeyError::NoVariable { .. }));
    }

    #[test]
    fn bad_keys_are_named_by_their_origin() {
        let folder = Folder::new();
        let hex = |name, content: &str| error(KeySource::HexFile(folder.file(name, content)));
        assert!(matches!(hex("short", &SECRET[..62]), KeyError::Length { got: 62, .. }));
        assert!(matches!(hex("digit", &SECRET.replace("ed", "xd")), KeyError::Digit { .. }));
        assert!(matches!(hex("zero", &"0".repeat(64)), KeyError::OutOfRange { .. }));
        assert!(matches!(hex("order", &"f".repeat(64)), KeyError::OutOfRange { .. }));
        assert!(matches!(hex("long", &"0".repeat(70_000)), KeyError::TooLong { got: 70_000, .. }));
        let missing = error(KeySource::HexFile(folder.0.path().join("none")));
        assert!(matches!(missing, KeyError::Missing { what: "key file", .. }), "{missing}");
        assert!(matches!(error(KeySource::HexFile(folder.0.path().to_owned())), KeyError::Unreadable { .. }));
        // A variable that every test has, and that is no key.
        let variable = error(KeySource::Env("CARGO_PKG_NAME".to_owned()));
        assert!(variable.to_string().contains("CARGO_PKG_NAME"), "{variable}");
    }

    #[cfg(unix)]
    #[test]
    fn files_that_others_can_read_are_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new();
        let path = folder.file("hex", SECRET);
        for (mode, expected) in [(0o600, None), (0o640, Some(0o640)), (0o604, Some(0o604)), (0o400, None)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_others(&path).unwrap(), expected);
        }
    }
}
