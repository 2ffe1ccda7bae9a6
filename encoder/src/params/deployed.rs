//! The files of parameters that the network uses, by their SHA-256.
//!
//! Source: the table in the README of the network's DA encoder.

use std::{fs::File, io::Read, path::Path};

use sha2::{Digest, Sha256};

use super::{ParamsError, Progress, Report, file::hex};

/// Names and digests.
pub const DEPLOYED: [(&str, &str); 10] = [
    ("amt-prove-coset0-5DWgDV-10-20.bin", "a132ba9fa48c338c478a3e9d7d1cde13d77c6096d3cca1ac28f091315ca58428"),
    ("amt-prove-coset0-mont-5DWgDV-10-20.bin", "6c1d7837e5380ca7e09e1f396b4f8ff3ec546cabcccc7bc65f6439a75a791a80"),
    ("amt-prove-coset1-5DWgDV-10-20.bin", "58ee8752e93408b79f3640d7712f5915213e69b872a3393ac67824d29d95379c"),
    ("amt-prove-coset1-mont-5DWgDV-10-20.bin", "a9f4f6b07a0d66620d652227233c42d12d2726c00f802eadd0e46db68917885a"),
    ("amt-prove-coset2-5DWgDV-10-20.bin", "0f12211c21816a55ef856fc4f22532e4a5f286bb68d7dfec0f8102a224613533"),
    ("amt-prove-coset2-mont-5DWgDV-10-20.bin", "0314657436c124f2b00c7bb4e239dc551ab4f0f732516ad9dd656ec12b091c17"),
    ("amt-verify-coset0-5DWgDV-10-20.bin", "18bb6b7ba10785a79810180ddd27a6d467d2c0e24e6335e5bc95998e02c6a4f6"),
    ("amt-verify-coset1-5DWgDV-10-20.bin", "19b024fed13e0ba60b17184c998dcccf12119b4fd0ab7c46394b8e024e99c48a"),
    ("amt-verify-coset2-5DWgDV-10-20.bin", "5660a89402df7d47885b304b566d92e1c42349744e202d45fc61a0893bd796c9"),
    ("power-tau-5DWgDV-20.bin", "bc148cd9ce28f65a4bacbe174a232bee426afd32dfce73004ee38ca9afa46059"),
];

/// The deployed file with this SHA-256, in hex.
pub fn deployed_name(digest: &str) -> Option<&'static str> {
    DEPLOYED.iter().find(|(_, known)| *known == digest).map(|(name, _)| *name)
}

/// SHA-256 of a file, in hex: some seconds for the network's 806 MB.
pub fn digest(path: &Path, report: Report<'_>) -> Result<String, ParamsError> {
    let mut file = File::open(path).map_err(ParamsError::io(path))?;
    let total = file.metadata().map_err(ParamsError::io(path))?.len();
    let mut sha = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = file.read(&mut bytes).map_err(ParamsError::io(path))?;
        if read == 0 {
            return Ok(hex(&sha.finalize()));
        }
        sha.update(&bytes[..read]);
        done += read as u64;
        report(Progress { stage: "SHA-256", done, total });
    }
}
