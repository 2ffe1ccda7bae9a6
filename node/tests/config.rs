//! The configuration as operators write it: their files, the environment, the command line, and what is said of faults.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use zgpu_node::config::{Config, MinerKey, Origin, Sources};

/// Every key that the network's own node has, each with another value than its default.
const OPERATORS_FILE: &str = include_str!("config/operator.toml");
const FLOW: &str = "0x62D4144dB0F0a6fBBaeb6296c785C71B3D57C526";
const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("zgpu.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, text: &str) -> Result<Config, String> {
        load(&Sources { file: Some(self.file(text)), ..Sources::default() })
    }
}

fn load(sources: &Sources) -> Result<Config, String> {
    Config::load(sources).map_err(|errors| errors.to_string())
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn flag(key: &str, value: &str) -> (String, String, String) {
    (format!("--{}", key.replace('_', "-")), key.to_owned(), value.to_owned())
}

/// A configuration of which all that is needed is set.
fn flow() -> String {
    format!("log_contract_address = '{FLOW}'\n")
}

#[test]
fn an_operators_file_is_taken_with_every_key() {
    let config = Folder::new().load(OPERATORS_FILE).unwrap();
    let (chain, net, sync, rpc) = (&config.chain, &config.net, &config.files.sync, &config.rpc);
    assert_eq!(chain.endpoints.0, ["http://127.0.0.1:18545"]);
    assert_eq!((chain.flow.to_string().as_str(), chain.start_block), (FLOW, 2_387_557));
    assert_eq!((chain.confirmations, chain.page_blocks, chain.poll), (1, 500, Duration::from_millis(250)));
    assert_eq!((chain.timeout, chain.backoff), (Duration::from_secs(60), Duration::from_millis(250)));
    assert_eq!(
        (config.store.dir.as_path(), config.store.shard.unwrap().to_string()),
        (Path::new("data/db"), "1/4".into())
    );
    let prune = config.prune.as_ref().unwrap();
    assert_eq!((prune.max_sectors, prune.check_every), (4_000_000_000, Duration::from_secs(30)));
    assert_eq!((net.tcp_port, net.discovery_port, net.enr_tcp_port, net.target), (11234, 21234, Some(31234), 40));
    assert_eq!((net.boot_nodes.len(), net.nodes.len(), net.is_private, net.has_discovery), (2, 1, true, false));
    assert_eq!(net.enr_address, Some("192.0.2.7".parse().unwrap()));
    let router = &config.files.router;
    assert_eq!(router.public_address.as_ref().unwrap().to_string(), "/ip4/192.0.2.9/tcp/31234");
    assert_eq!((router.batcher_file_capacity, router.idle_time), (10, Duration::from_secs(200)));
    assert!(sync.auto_sync_enabled && sync.neighbors_only && sync.max_sync_files == 8);
    assert_eq!(sync.peer_chunks_download_timeout, Duration::from_secs(20));
    assert_eq!(sync.max_bandwidth_bytes, 10_000_000);
    assert_eq!(rpc.listen, Some("0.0.0.0:15678".parse().unwrap()));
    assert_eq!((rpc.max_writers, rpc.max_pending_sectors), (128, 1_048_576));
    assert!(matches!(&config.miner.key, Some(MinerKey::Inline(Origin::File(_), key)) if key.0 == SECRET));
    assert_eq!((config.miner.bump_percent, config.miner.max_gas_price), (20, Some(200_000_000_000)));

    // What has no effect is named, with the reason, and the key that lies open.
    let notices = config.notices();
    for name in ["mine_iter_batch_size", "network_peer_db.max_banned_peers", "metrics.enabled", "log_directory"] {
        assert!(
            notices.iter().any(|notice| notice.contains(&format!("{name} has no effect here: "))),
            "{name}: {notices:?}"
        );
    }
    assert!(notices.iter().any(|notice| notice.contains("miner_key_file")), "{notices:?}");
    let said = format!("{notices:?} {config:?} {}", config.print());
    assert!(!said.contains(SECRET) && said.contains("***"));
}

#[test]
fn the_operators_file_has_every_key_of_the_networks_node() {
    // A key of the table that neither file nor list has would be one that nobody has thought about.
    const OURS: [&str; 18] = [
        "network =",
        "chain_id",
        "blockchain_rpc_endpoints",
        "blockchain_rpc_calls_per_second",
        "miner_key_file",
        "miner_keystore",
        "miner_key_env",
        "miner_beneficiary",
        "miner_may_register",
        "miner_min_profit",
        "miner_ignore_profit",
        "miner_start_position",
        "backend",
        "device",
        "log_format",
        "db_cache_bytes",
        "db_reserve_bytes",
        "status_line_interval",
    ];
    let config = Folder::new().load(&flow()).unwrap();
    let mut missing = Vec::new();
    for line in config.print().lines() {
        let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else { continue };
        let is_ours = OURS.iter().any(|ours| line.contains(ours)) || key == "listen";
        if !key.contains(' ') && !is_ours && !OPERATORS_FILE.lines().any(|line| line.starts_with(&format!("{key} = ")))
        {
            missing.push(key.to_owned());
        }
    }
    assert_eq!(missing, [""; 0]);
}

#[test]
fn layers_lie_on_each_other_and_say_where_a_value_is_from() {
    let folder = Folder::new();
    let mut sources = Sources { flags: vec![flag("network", "testnet")], ..Sources::default() };
    let confirmations = |sources: &Sources| load(sources).unwrap().chain.confirmations;
    let origin = |sources: &Sources| {
        let text = load(sources).unwrap().print();
        let line = text.lines().position(|line| line.starts_with("confirmation_block_count = ")).unwrap();
        text.lines().nth(line - 1).unwrap().to_owned()
    };
    assert_eq!((confirmations(&sources), origin(&sources)), (1, "# Default: 3. This value: network testnet.".into()));
    sources.file = Some(folder.file("confirmation_block_count = 7"));
    let from_file = format!("# Default: 3. This value: {}.", sources.file.as_ref().unwrap().display());
    assert_eq!((confirmations(&sources), origin(&sources)), (7, from_file));
    sources.environment = environment(&[("ZGS_NODE__CONFIRMATION_BLOCK_COUNT", "8")]);
    assert_eq!(confirmations(&sources), 8);
    sources.environment.insert(0, ("ZGPU_NODE__CONFIRMATION_BLOCK_COUNT".into(), "9".into()));
    let from_variable = "# Default: 3. This value: environment variable ZGPU_NODE__CONFIRMATION_BLOCK_COUNT.";
    assert_eq!((confirmations(&sources), origin(&sources)), (9, from_variable.into()));
    sources.flags.push(flag("confirmation_block_count", "10"));
    let from_flag = "# Default: 3. This value: --confirmation-block-count.";
    assert_eq!((confirmations(&sources), origin(&sources)), (10, from_flag.into()));

    // Sections and flat keys alike, and the network from any layer.
    let mut sources =
        Sources { file: Some(folder.file("network = 'testnet'\n[rpc]\nenabled = false")), ..Sources::default() };
    assert_eq!(load(&sources).unwrap().network, "testnet");
    assert_eq!(load(&sources).unwrap().rpc.listen, None);
    let variables = [
        ("ZGPU_NODE__NETWORK", "mainnet"),
        ("ZGS_NODE__RPC__ENABLED", "true"),
        ("ZGPU_NODE__SYNC__PEER_FIND_TIMEOUT", "7s"),
        ("ZGPU_NODE__NETWORK_BOOT_NODES", "/ip4/192.0.2.1/tcp/1234,/ip4/192.0.2.2/tcp/1234"),
        ("ZGPU_LOG", "debug"),
    ];
    sources.environment = environment(&variables);
    let config = load(&sources).unwrap();
    assert_eq!((config.network.as_str(), config.chain.chain_id), ("mainnet", Some(16661)));
    assert_eq!((config.rpc.listen.is_some(), config.files.sync.peer_find_timeout), (true, Duration::from_secs(7)));
    assert_eq!(config.net.boot_nodes.len(), 2);
}

#[test]
fn endpoints_are_a_list_in_their_order() {
    let folder = Folder::new();
    let endpoints = |text: &str| folder.load(&format!("{text}\n{}", flow())).unwrap().chain.endpoints.0;
    assert_eq!(endpoints(""), ["http://127.0.0.1:8545"]);
    assert_eq!(endpoints("blockchain_rpc_endpoint = 'http://a'"), ["http://a"]);
    let both = "blockchain_rpc_endpoint = 'http://a'\nblockchain_rpc_endpoints = ['wss://b', 'http://a']";
    assert_eq!(endpoints(both), ["http://a", "wss://b"]);
    // The network's own endpoint is for those who name none.
    let named = "network = 'mainnet'\nblockchain_rpc_endpoints = ['http://b']";
    assert_eq!(endpoints(named), ["http://b"]);
    assert_eq!(endpoints("network = 'mainnet'"), ["https://evmrpc.0g.ai"]);
}

#[test]
fn faults_are_named_all_at_once_with_key_value_and_limit() {
    let folder = Folder::new();
    let text = "log_page_size = 0\nlog_page_sise = 5\nrpc = 5\nmine_contract_address = '0x12'\n[sync]\nauto_sync_enabled = 'yes'\n\
                db_dir = 'x'\n[db_dir]\n[nonsense]\na = 1\n[router]\nbatcher_file_capacity = 257\n";
    let error = folder.load(text).unwrap_err();
    for words in [
        "9 faults in the configuration:",
        "zgpu.toml: log_page_size is 0; it takes a whole number from 1 to 1000000",
        "zgpu.toml: there is no key \"log_page_sise\"; did you mean \"log_page_size\"?",
        "--allow-unknown",
        "\"rpc\" is a value, but it is the name of a section",
        "mine_contract_address is 0x12; it takes an address: 0x and 40 hex digits",
        "sync.auto_sync_enabled is \"yes\"; it takes true or false",
        "no key \"sync.db_dir\" in [sync]; \"db_dir\" stands before the first section",
        "\"db_dir\" is a section, but it is a key with a value",
        "there is no key \"nonsense\"",
        "router.batcher_file_capacity is 257; it takes a whole number from 0 to 256",
    ] {
        assert!(error.contains(words), "{words:?} is missing in: {error}");
    }

    for (text, words) in [
        ("", "log_contract_address is not set: name a network that has it (--network mainnet or testnet)"),
        ("miner_cpu_percentage = 0", "miner_cpu_percentage is 0; it takes a whole number from 1 on"),
        ("network = 'homenet'", "network is homenet; it takes one of custom, mainnet, testnet"),
        ("shard_position = '1/3'", "shard_position is 1/3; it takes a share id/count with a power of two"),
        ("db_dir = ''", "db_dir is not set"),
        ("blockchain_rpc_endpoint = ''", "blockchain_rpc_endpoint is not set"),
        (
            "blockchain_rpc_endpoint = 'ftp://host/hunter2'",
            "blockchain_rpc_endpoint is 18 characters that are not shown; it takes an http, https, ws or wss URL",
        ),
        ("miner_key = 'hunter2'", "miner_key is 7 characters that are not shown; it takes 64 hex digits"),
        ("[rpc]\nlisten_address = ''", "rpc.listen_address is not set"),
        ("[sync]\npeer_find_timeout = 5", "sync.peer_find_timeout is 5; it takes a time from \"1ms\" to \"1day\""),
        ("[rpc]\nchunks_per_segment = 512", "whole number from 1024 to 1024"),
        ("a = \n", "is no TOML: line 1: "),
        ("miner_keystore = 'k'", "miner_keystore_password_file is not set"),
        (&format!("miner_key = '{SECRET}'\nminer_key_file = 'k'"), "miner_key is set, and so is miner_key_file"),
    ] {
        let error = folder.load(text).unwrap_err();
        assert!(error.contains(words), "{words:?} is missing in: {error}");
        assert!(!error.contains("hunter2") && !error.contains(SECRET), "{error}");
    }
    let missing = load(&Sources { file: Some("/nowhere/zgpu.toml".into()), ..Sources::default() }).unwrap_err();
    assert!(missing.contains("/nowhere/zgpu.toml cannot be read"), "{missing}");
    let long = folder.load(&"#".repeat(2 << 20)).unwrap_err();
    assert!(long.contains("2097152 bytes, at most 1048576"), "{long}");

    let sources = Sources { environment: environment(&[("ZGPU_NODE__LOG_PAGE_SISE", "5")]), ..Sources::default() };
    let error = load(&sources).unwrap_err();
    assert!(
        error.contains("environment variable ZGPU_NODE__LOG_PAGE_SISE: there is no key \"log_page_sise\""),
        "{error}"
    );
    let sources = Sources { flags: vec![flag("miner_key", SECRET)], ..Sources::default() };
    let error = load(&sources).unwrap_err();
    assert!(error.contains("miner_key is on the command line") && !error.contains(SECRET), "{error}");
}

#[test]
fn unknown_keys_can_be_allowed_and_slips_that_change_nothing_are_taken() {
    let folder = Folder::new();
    let file = Some(folder.file(&format!("{}unheard_of = 1\n[nonsense]\na = 1", flow())));
    let config = load(&Sources { file, allow_unknown: true, ..Sources::default() }).unwrap();
    let notices = config.notices();
    assert!(notices.len() == 2 && notices[0].contains("there is no such key"), "{notices:?}");
    // One published configuration has these keys in front of their section.
    let config = folder.load(&format!("{}max_banned_peers = 10000\n", flow())).unwrap();
    assert!(config.notices()[0].contains("max_banned_peers has no effect here"), "{:?}", config.notices());
}

#[test]
fn the_miners_key_comes_from_the_best_place_that_is_named() {
    let folder = Folder::new();
    let named = |text: &str, variables: &[(&str, &str)]| {
        let file = Some(folder.file(&format!("{}{text}", flow())));
        let environment = environment(variables);
        load(&Sources { file, environment, ..Sources::default() }).unwrap().miner.key
    };
    assert_eq!(named("", &[]), None);
    let variable = [("ZGPU_MINER_KEY", SECRET)];
    let text = |key: Option<MinerKey>| format!("{key:?}");
    assert_eq!(text(named("", &variable)), "Some(From(Env(\"ZGPU_MINER_KEY\")))");
    assert_eq!(text(named("miner_key_env = ''", &variable)), "None");
    assert_eq!(text(named("miner_key_env = 'MY_KEY'", &[("MY_KEY", SECRET)])), "Some(From(Env(\"MY_KEY\")))");
    assert_eq!(text(named("miner_key_file = 'k'", &variable)), "Some(From(HexFile(\"k\")))");
    let keystore = "miner_keystore = 'k'\nminer_keystore_password_file = 'p'";
    assert!(text(named(keystore, &variable)).starts_with("Some(From(Keystore"));
    for variable in ["ZGS_NODE__MINER_KEY", "ZGPU_NODE__MINER_KEY"] {
        let key = named("", &[(variable, SECRET)]).unwrap();
        assert!(matches!(&key, MinerKey::Inline(Origin::Variable(name), _) if name == variable), "{key:?}");
        assert_eq!(key.load().unwrap().address().to_string(), "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b");
    }
}

#[test]
fn a_printed_configuration_reads_back_as_the_same() {
    let folder = Folder::new();
    let first = folder.load(&format!("miner_id = '0x{SECRET}'\ndevice = 'cpu:0'\n{}", flow())).unwrap();
    let second = folder.load(&first.print()).unwrap();
    let without_origins = |config: &Config| {
        let text = config.print();
        text.lines().filter(|line| !line.starts_with("# Default: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_origins(&first), without_origins(&second));
    assert_eq!(format!("{first:?}"), format!("{second:?}"));

    let secret =
        folder.load(&format!("blockchain_rpc_endpoint = 'https://u:hunter2@host/v3/hunter2'\n{}", flow())).unwrap();
    assert!(
        !secret.print().contains("hunter2")
            && secret.print().contains("# blockchain_rpc_endpoint = \"https://***@host/***\"")
    );
}

#[test]
fn the_example_file_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/zgpu.toml");
    let network = Sources { flags: vec![flag("network", "testnet")], ..Sources::default() };
    let printed = load(&network).unwrap().print();
    if std::env::var_os("ZGPU_WRITE_EXAMPLE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &printed).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == printed,
        "{} differs from the configuration that is printed; ZGPU_WRITE_EXAMPLE=1 writes it anew",
        path.display()
    );
    load(&Sources { file: Some(path), ..Sources::default() }).unwrap();
}
