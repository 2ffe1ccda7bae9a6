//! Configuration files: any text is read, or refused with reasons. What is printed of a configuration that was read can be
//! read again.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use zgpu_node::config::{Config, Sources};

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fn load(text: &[u8], allow_unknown: bool) -> Option<Config> {
    let path: PathBuf = DIR.path().join("zgpu.toml");
    fs::write(&path, text).expect("it can be written");
    match Config::load(&Sources { file: Some(path), allow_unknown, ..Sources::default() }) {
        Ok(config) => Some(config),
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            None
        }
    }
}

fuzz_target!(|input: &[u8]| {
    // A network makes what is needed complete, so that the rest is looked at too.
    let whole = [b"network = 'testnet'\n", input].concat();
    for allow_unknown in [false, true] {
        load(input, allow_unknown);
        let Some(config) = load(&whole, allow_unknown) else { continue };
        let _ = config.notices();
        let printed = config.print();
        assert!(load(printed.as_bytes(), false).is_some(), "what is printed is a configuration: {printed}");
    }
});
