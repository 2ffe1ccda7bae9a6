//! The node's identity on the network: a secp256k1 key in a file of 32 bytes, made when there is none.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use libp2p::identity::{Keypair, secp256k1};

use super::error::NetError;

const BYTES_PER_KEY: usize = 32;

/// The key in `path`, or a new one, which is written there first, readable by its owner alone.
pub fn load_or_create(path: &Path) -> Result<Keypair, NetError> {
    let failed = |source| NetError::KeyFile { path: path.to_path_buf(), source };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = secp256k1::SecretKey::generate();
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
            file.write_all(&secret.to_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            return Ok(secp256k1::Keypair::from(secret).into());
        }
        Err(error) => return Err(failed(error)),
    };
    let refused = NetError::Key { path: path.to_path_buf(), got: bytes.len() };
    let Ok(bytes) = <[u8; BYTES_PER_KEY]>::try_from(bytes) else { return Err(refused) };
    let Ok(secret) = secp256k1::SecretKey::try_from_bytes(bytes) else { return Err(refused) };
    Ok(secp256k1::Keypair::from(secret).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_a_broken_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = load_or_create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 32);
        assert_eq!(load_or_create(&path).unwrap().public(), first.public());
        assert!(first.public().to_peer_id().to_base58().starts_with("16Uiu2HA"));
        for wrong in [&[0; 32][..], &[1; 31], &[]] {
            fs::write(&path, wrong).unwrap();
            assert!(matches!(load_or_create(&path), Err(NetError::Key { got, .. }) if got == wrong.len()));
        }
        assert!(matches!(load_or_create(dir.path()), Err(NetError::KeyFile { .. })));
    }
}
