//! Hostile vector files: each is refused with an error that says what is wrong.

use zgpu_miner::{
    VectorError,
    check::{MAX_CASES, MAX_FILE_BYTES, parse_vectors},
};

const VECTORS: &str = include_str!("../vectors/pora.json");

fn refused(text: &str) -> String {
    parse_vectors(text).unwrap_err().to_string()
}

/// The file with one piece of its first case replaced.
fn with(from: &str, to: &str) -> String {
    assert!(VECTORS.contains(from), "{from}");
    VECTORS.replacen(from, to, 1)
}

#[test]
fn the_file_itself_is_read() {
    let cases = parse_vectors(VECTORS).unwrap();
    assert_eq!(cases.len(), 8);
    assert_eq!(cases[0].range.mining_length, 2048);
    assert_eq!(cases[0].raw_prefix, "zgpu-public/0/data/");
    assert_eq!(cases[0].raw_load().len(), 256 * 1024);
}

#[test]
fn files_that_are_no_vector_files() {
    for text in ["", "{", "\0", "[1, 2", &"[".repeat(100_000)] {
        assert!(matches!(parse_vectors(text), Err(VectorError::Json(_))), "{}", &text[..text.len().min(9)]);
    }
    for text in ["null", "[]", "{}", "3", "{\"cases\": []}", "{\"cases\": {}}", "{\"cases\": null}", "\"cases\""] {
        assert!(matches!(parse_vectors(text), Err(VectorError::NoCases)), "{text}");
    }
    let many = format!("{{\"cases\": [{}0]}}", "0,".repeat(MAX_CASES));
    assert_eq!(refused(&many), "the vector file has 4097 cases, at most 4096 are run");
    let long = " ".repeat(MAX_FILE_BYTES + 1);
    assert_eq!(refused(&long), "the vector file has 16777217 bytes, at most 16777216 are read");
    assert_eq!(refused("{\"cases\": [7]}"), "case 0: \"cases\" is not an object");
    assert_eq!(refused("{\"cases\": [{}]}"), "case 0: key \"range\" is missing");
}

#[test]
fn hex_of_the_wrong_length_or_with_other_characters() {
    let miner = "0x2de419667beecf6501f28c7b32097cbd0fc8e8e85dda939ce4a8bbf0e0d3a729";
    let replaced = |text: &str| refused(&with(miner, text));
    assert_eq!(replaced(""), "case 0: \"miner_id\" has 0 hex digits, expected 64");
    assert_eq!(replaced("0x"), "case 0: \"miner_id\" has 0 hex digits, expected 64");
    assert_eq!(replaced(&miner[..65]), "case 0: \"miner_id\" has 63 hex digits, expected 64");
    assert_eq!(replaced(&format!("{miner}00")), "case 0: \"miner_id\" has 66 hex digits, expected 64");
    let odd = format!("{}é", &miner[..65]);
    assert_eq!(replaced(&odd), "case 0: \"miner_id\" has 'é' at digit 63, expected a hex digit");
    assert_eq!(
        replaced(&format!("0x0x{}", &miner[4..])),
        "case 0: \"miner_id\" has 'x' at digit 1, expected a hex digit"
    );
    // Without 0x it is the same number.
    assert_eq!(parse_vectors(&with(miner, &miner[2..])).unwrap(), parse_vectors(VECTORS).unwrap());
    let quality = "\"0x3ff0209b4572386b37a08ad5700af721b3801352efa6735e41c8a8e78f372626\",";
    assert_eq!(refused(&with(quality, "")), "case 0: \"qualities\" has 63 entries, expected 64");
    assert_eq!(refused(&with(quality, &quality.repeat(2))), "case 0: \"qualities\" has 65 entries, expected 64");
    assert_eq!(refused(&with(quality, "17,")), "case 0: \"qualities\" is not a text");
    assert_eq!(refused(&with(quality, "\"0x3f\",")), "case 0: \"qualities\" has 2 hex digits, expected 64");
}

#[test]
fn numbers_and_missing_keys() {
    let length = "\"mining_length\": \"2048\"";
    let replaced = |text: &str| refused(&with(length, &format!("\"mining_length\": {text}")));
    for wrong in ["\"\"", "\"-1\"", "\"+1\"", "\"0x\"", "\"0x+1\"", "\"18446744073709551616\"", "\"12.0\"", "\" 1\""] {
        let expected =
            format!("case 0: \"mining_length\" is {wrong}, expected a number below 2^64, decimal or with 0x");
        assert_eq!(replaced(wrong), expected);
    }
    for wrong in ["null", "-1", "1.5", "[]", "{}", "true"] {
        assert_eq!(replaced(wrong), "case 0: \"mining_length\" is not a text", "{wrong}");
    }
    for same in ["2048", "\"0x800\"", "\"0x0000000000000000000800\""] {
        let text = with(length, &format!("\"mining_length\": {same}"));
        assert_eq!(parse_vectors(&text).unwrap(), parse_vectors(VECTORS).unwrap());
    }
    for key in ["miner_id", "nonce", "range", "shard_mask", "pad_seed", "raw_chunk_rule", "qualities", "recall_seed"] {
        let text = with(&format!("\"{key}\":"), &format!("\"not_{key}\":"));
        assert_eq!(refused(&text), format!("case 0: key {key:?} is missing"));
    }
    let second = VECTORS.rfind("\"nonce\":").unwrap();
    let text = format!("{}\"once\":{}", &VECTORS[..second], &VECTORS[second + 8..]);
    assert_eq!(refused(&text), "case 7: key \"nonce\" is missing");
}

#[test]
fn rules_for_raw_data() {
    let rule = "keccak256(ascii \\\"zgpu-public/0/data/\\\" + decimal w)";
    let rest = "32-byte word w of the raw 256 KiB chunk is ";
    for wrong in
        ["", "sha256(ascii \\\"a\\\" + decimal w)", "keccak256(ascii \\\"a\\\" + hex w)", "keccak256(ascii \\\"a"]
    {
        let expected =
            format!("case 0: the raw data's rule {:?} is not known", format!("{rest}{}", wrong.replace('\\', "")));
        let error = refused(&with(rule, wrong));
        assert!(error.starts_with(&expected), "{error}");
    }
    let long = format!("keccak256(ascii \\\"{}\\\" + decimal w)", "a".repeat(257));
    assert!(matches!(parse_vectors(&with(rule, &long)), Err(VectorError::Rule { case: 0, .. })));
    let other = with(rule, "keccak256(ascii \\\"another prefix\\\" + decimal w)");
    assert_eq!(parse_vectors(&other).unwrap()[0].raw_prefix, "another prefix");
    let none = with(rule, "keccak256(ascii \\\"\\\" + decimal w)");
    assert_eq!(parse_vectors(&none).unwrap()[0].raw_prefix, "");
}
