//! The binary as a person or a script meets it: the main job end to end, and clear errors for bad input.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../miner/vectors/pora.json");

fn zgpu(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zgpu"))
        .args(arguments)
        .env_remove("ZGPU_MINER_KEY")
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

/// Fails with exit code `code` and says all of `words` on stderr, and nothing on stdout.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let output = zgpu(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?} should say {word:?}: {text}");
    }
    assert_eq!(stdout(&output), "", "{arguments:?}");
    assert!(!text.contains("panicked"), "{text}");
}

fn write(dir: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).expect("a temporary file is written");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Runs the main job and checks everything that its document promises.
fn mines(arguments: &[&str], proofs: u64) -> Value {
    let wanted = proofs.to_string();
    let mut all = vec!["devnet", "--json", "--timeout", "240", "--proofs", &wanted];
    all.extend(arguments);
    let output = zgpu(&all);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document on stdout");
    assert_eq!(report["accepted"], proofs, "{report}");
    assert!(report["submitted"].as_u64() >= report["accepted"].as_u64());
    assert_eq!(report["rejected"], 0, "{report}");
    assert_eq!(report["flow_length"], 1u64 << 25, "the first pricing chunk is full");
    assert!(report["nonces"].as_u64().unwrap() >= proofs && report["nonces_per_second"].as_f64().unwrap() > 0.0);
    let reward: u128 = report["reward_wei"].as_str().unwrap().parse().unwrap();
    assert!(reward >= u128::from(proofs) * 10u128.pow(17), "the base reward of every proof, at least: {reward}");
    for digest in ["data_root", "miner_id"] {
        assert_eq!(report[digest].as_str().unwrap().len(), 66);
    }
    assert_eq!(report["transactions"].as_array().unwrap().len() as u64, proofs);
    report
}

#[test]
fn the_main_job_pays_for_a_generated_file() {
    let report = mines(&["--backend", "cpu"], 3);
    assert_eq!((report["backend"].as_str(), report["software_device"].as_bool()), (Some("cpu"), Some(false)));
}

#[test]
fn the_main_job_takes_a_given_file_and_key_and_keeps_the_store() {
    let dir = TempDir::new().unwrap();
    let data: Vec<u8> = (0..262_400u32).map(|i| i as u8).collect();
    let file = write(&dir, "data", &data);
    let key = write(&dir, "key", b"0x00000000000000000000000000000000000000000000000000000000000000ff\n");
    let store = dir.path().join("store");
    let arguments = ["--backend", "cpu", "--file", text(&file), "--key-file", text(&key), "--dir", text(&store)];
    let report = mines(&arguments, 1);
    // Root of the protocol's own table, and the address of the key.
    assert_eq!(report["data_root"], "0xd9c86ee12a66e3c7b3913d8f27b78b7be6ba1a3b693ed0f56b838c5440608569");
    assert_eq!(report["beneficiary"].as_str().unwrap().len(), 42);
    assert!(store.join("db").is_dir());
    // A store of another chain is not mixed with a new one.
    let mut again = vec!["devnet"];
    again.extend(arguments);
    refused(&again, 1, &["holds the log of another chain"]);
}

#[test]
fn the_main_job_takes_a_file_of_one_byte() {
    let dir = TempDir::new().unwrap();
    let file = write(&dir, "byte", b"!");
    let report = mines(&["--backend", "cpu", "--file", text(&file)], 1);
    assert_eq!(report["file_bytes"], 1);
}

#[test]
fn bad_input_of_the_main_job_is_named() {
    let dir = TempDir::new().unwrap();
    let empty = write(&dir, "empty", b"");
    let short_key = write(&dir, "key", b"1234");
    let missing = dir.path().join("missing");
    refused(&["devnet", "--file", text(&missing)], 1, &["missing", "cannot be opened"]);
    refused(&["devnet", "--file", text(&empty)], 1, &["empty"]);
    refused(&["devnet", "--file", text(dir.path())], 1, &["is not a file"]);
    refused(&["devnet", "--key-file", text(&missing)], 1, &["key file", "missing"]);
    refused(&["devnet", "--key-file", text(&short_key)], 1, &["4", "64"]);
    refused(&["devnet", "--proofs", "0"], 2, &["--proofs"]);
    refused(&["devnet", "--backend", "abacus"], 2, &["abacus", "auto, cpu, cuda and wgpu"]);
    refused(&["devnet", "--dir", text(&empty)], 1, &[text(&empty)]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(&["devnet", "--port", &port], 1, &[&port, "--port"]);
}

#[test]
fn the_vectors_pass_and_changed_ones_fail() {
    let output = zgpu(&["pora", "check", "--vectors", VECTORS, "--backend", "cpu"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = stdout(&output);
    assert_eq!(lines.lines().count(), 9);
    assert_eq!(lines.lines().last(), Some("8 passed, 0 failed"));

    let dir = TempDir::new().unwrap();
    let original = fs::read_to_string(VECTORS).unwrap();
    let quality = "0x3ff0209b4572386b37a08ad5700af721b3801352efa6735e41c8a8e78f372626";
    assert!(original.contains(quality));
    let changed = write(&dir, "changed", original.replace(quality, &quality.replace("3ff0", "3ff1")).as_bytes());
    let output = zgpu(&["pora", "check", "--vectors", text(&changed), "--backend", "cpu"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output).lines().last(), Some("7 passed, 1 failed"));

    let cut = write(&dir, "cut", original.replace(quality, &quality[..60]).as_bytes());
    refused(&["pora", "check", "--vectors", text(&cut), "--backend", "cpu"], 1, &["64", "58"]);
    let junk = write(&dir, "junk", &[0xff; 100]);
    refused(&["pora", "check", "--vectors", text(&junk)], 1, &["cannot be read as text"]);
    refused(&["pora", "check", "--vectors", text(&dir.path().join("none"))], 1, &["cannot be opened"]);
}

#[test]
fn the_blob_vectors_pass_and_changed_ones_fail() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/vectors");
    let (one, other) = (folder.join("blob-6x5-1.json"), folder.join("blob-6x5-1234.json"));
    let output = zgpu(&["da", "check", "--vectors", text(&one), text(&other)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().last(), Some("2 passed, 0 failed"));

    let dir = TempDir::new().unwrap();
    let root = "2554fa7d662d87744f75a1cf8f3a7cbfe8952e7201124a8cbf174a73ad728732";
    let original = fs::read_to_string(&other).unwrap();
    assert!(original.contains(root));
    let changed = write(&dir, "changed", original.replace(root, &root.replace("2554", "2555")).as_bytes());
    let output = zgpu(&["da", "check", "--vectors", text(&changed)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains(root), "both numbers: {}", stdout(&output));
    assert_eq!(stdout(&output).lines().last(), Some("0 passed, 1 failed"));
    refused(&["da", "check", "--vectors", text(&dir.path().join("none"))], 1, &["cannot be opened"]);
}

#[test]
fn devices_are_listed_with_what_is_missing() {
    let output = zgpu(&["devices", "--json"]);
    assert!(output.status.success());
    let devices: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let usable = devices["usable"].as_array().unwrap();
    assert!(usable.iter().any(|device| device["backend"] == "cpu"));
    assert_ne!(devices["auto"]["software"], true, "auto never takes a software adapter");
    for device in devices["unusable"].as_array().unwrap() {
        assert!(!device["reason"].as_str().unwrap().is_empty() && !device["remedy"].as_str().unwrap().is_empty());
    }
    let has_cuda = usable.iter().any(|device| device["backend"] == "cuda");
    if !has_cuda {
        // Asked for and not there: the reason and the remedy, not a crash.
        refused(&["devnet", "--backend", "cuda"], 1, &["cuda"]);
    }
}
