//! The dependency rule of ARCHITECTURE.md, read off `cargo metadata`: an arrow that the page does not show fails.

use std::{collections::BTreeSet, process::Command};

/// Crate, what it may use of the workspace, heavy libraries that it alone (with others named so) may use.
const RULES: &[(&str, &[&str], &[&str])] = &[
    ("zgpu-core", &[], &[]),
    ("zgpu-kernels", &["zgpu-core"], &["cudarc"]),
    ("zgpu-shaders", &["zgpu-core"], &["wgpu"]),
    ("zgpu-miner", &["zgpu-core", "zgpu-kernels", "zgpu-shaders"], &[]),
    ("zgpu-encoder", &["zgpu-core", "zgpu-kernels", "zgpu-shaders"], &[]),
    // Devices are listed and opened through miner and encoder: neither shell names a backend.
    ("zgpu-bench", &["zgpu-core", "zgpu-miner", "zgpu-encoder"], &[]),
    (
        "zgpu-node",
        &["zgpu-core", "zgpu-miner", "zgpu-encoder", "zgpu-bench"],
        &["tokio", "libp2p", "rocksdb", "alloy", "tonic"],
    ),
];

/// Libraries with one home.
const GUARDED: &[&str] = &["cudarc", "wgpu", "tokio", "libp2p", "rocksdb", "alloy", "tonic"];

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");

    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().expect("a name")).collect();
    assert_eq!(names, RULES.iter().map(|rule| rule.0).collect(), "crates of the workspace and crates of the rule");

    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let (_, crates, libraries) = RULES.iter().find(|rule| rule.0 == name).expect("a rule");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a name");
            // A crate may name itself to switch a feature of its own on for its tests.
            if used.starts_with("zgpu-") && used != name {
                assert!(crates.contains(&used), "{name} must not use {used}");
            }
            if GUARDED.iter().any(|guarded| used == *guarded || used.starts_with(&format!("{guarded}-"))) {
                let home = libraries.iter().any(|library| used == *library || used.starts_with(&format!("{library}-")));
                assert!(home, "{name} must not use {used}");
            }
        }
    }
}
