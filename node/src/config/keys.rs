//! Every key of the configuration: section, name, what it takes, default, and what it does here.
//!
//! Names, sections and defaults are those of the network's own node, so that an operator's file works; keys under
//! "of this node alone" are ours. A key that has no meaning here says why, and is accepted.

use super::value::Kind;

/// One key.
pub(super) struct Key {
    /// Section, empty for keys before the first one.
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As TOML; empty when there is none.
    pub(super) default: &'static str,
    pub(super) doc: &'static str,
    /// Why it has no effect here, for keys that have none.
    pub(super) no_effect: Option<&'static str>,
}

impl Key {
    const fn no_effect(self, why: &'static str) -> Key {
        Key { no_effect: Some(why), ..self }
    }

    /// Section and name with a dot between them.
    pub(super) fn path(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }
}

const fn key(section: &'static str, name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { section, name, kind, default, doc, no_effect: None }
}

/// The section in which other keys than ours are accepted: the network's node takes settings of a metrics library there.
pub(super) const OPEN_SECTION: &str = "metrics";

const PORT: Kind = Kind::Int(0, 65_535);
/// Number of things that are held in memory.
const COUNT: Kind = Kind::Int(0, 1_000_000_000);
/// A number of something that needs no limit.
const ANY: Kind = Kind::Int(0, u64::MAX);
/// A number of seconds, up to a day.
const SECONDS: Kind = Kind::Int(1, 86_400);
/// A time of up to a day.
const SPAN: Kind = Kind::Span(1, 86_400_000);

const CHAIN_RETRIES: &str = "calls are retried within their time, at every endpoint, and the log sync never gives up";
const FINALITY: &str = "blocks are remembered as far back as a reorganisation can reach";
const PEERS: &str = "peers are kept by their score, in tables with limits of their own";

/// All keys, in the order in which they are printed.
pub(super) static KEYS: &[Key] = &[
    // Of this node alone.
    key(
        "",
        "network",
        Kind::OneOf(&["custom", "mainnet", "testnet", "mainnet-standard", "testnet-standard"]),
        "'custom'",
        "Which network: it sets the chain, the contracts, where their log starts, and the boot nodes. With \"custom\" \
         those are set by hand.",
    ),
    key(
        "",
        "chain_id",
        Kind::Int(1, u64::MAX),
        "",
        "Id that the chain must have. The chain's own is taken if not set.",
    ),
    key(
        "",
        "blockchain_rpc_endpoints",
        Kind::Urls,
        "[]",
        "Endpoints of the chain: when one fails or is behind, the next is asked. They come behind \
         blockchain_rpc_endpoint, unless only the network or the default names that one. Those over WebSocket (ws:// or \
         wss://) announce new blocks, which are then read at once.",
    ),
    key(
        "",
        "blockchain_rpc_calls_per_second",
        Kind::Int(0, 100_000),
        "0",
        "Most calls to an endpoint of the chain in a second, for providers that count them; 0 for no limit.",
    ),
    key(
        "",
        "miner_key_file",
        Kind::Path,
        "",
        "File with the miner's key, 64 hex digits, that its owner alone can read. A node with a key mines.",
    ),
    key(
        "",
        "miner_keystore",
        Kind::Path,
        "",
        "Encrypted keystore (version 3, as geth and foundry write it) with the key.",
    ),
    key("", "miner_keystore_password_file", Kind::Path, "", "File with the keystore's password."),
    key(
        "",
        "miner_key_env",
        Kind::Name,
        "'ZGPU_MINER_KEY'",
        "Environment variable with the miner's key, read when no file or keystore is named; without the variable the \
         node does not mine.",
    ),
    key(
        "",
        "miner_beneficiary",
        Kind::Address,
        "",
        "Account that answers have to pay; the key's own if not set. A miner id with another one is refused.",
    ),
    key(
        "",
        "miner_may_register",
        Kind::Bool,
        "true",
        "Registers a miner id, which costs gas, when there is none for the key.",
    ),
    key(
        "",
        "miner_min_profit",
        Kind::Int(0, u64::MAX),
        "0",
        "Wei that an answer has to earn beyond its gas; others are not sent.",
    ),
    key(
        "",
        "miner_ignore_profit",
        Kind::Bool,
        "false",
        "Sends answers whatever they earn: for test networks, and for those who mine at a loss on purpose.",
    ),
    key(
        "",
        "miner_start_position",
        Kind::Int(0, u64::MAX),
        "0",
        "First sector to mine from, where the flow is longer than the 8 TiB that an answer may range over.",
    ),
    key(
        "",
        "backend",
        Kind::OneOf(&["auto", "cpu", "cuda", "wgpu"]),
        "'auto'",
        "Kind of device to seal and mine on: auto takes the best there is.",
    ),
    key(
        "",
        "device",
        Kind::Device,
        "''",
        "The device itself, such as \"cuda:1\"; the first of the backend if not set.",
    ),
    key("", "log_format", Kind::OneOf(&["text", "json"]), "'text'", "Form of log lines, which go to stderr."),
    key(
        "",
        "db_cache_bytes",
        Kind::Int(8 << 20, 1 << 40),
        "67108864",
        "Memory for cached blocks of the database, in bytes.",
    ),
    key(
        "",
        "db_reserve_bytes",
        Kind::Int(1 << 20, 1 << 50),
        "536870912",
        "Bytes that stay free on the disk: below that, writes are refused before they can fail half-way.",
    ),
    // Network.
    key("", "network_dir", Kind::Path, "'network'", "Folder of the node's network key and of its record for others."),
    key("", "network_listen_address", Kind::Ip, "'0.0.0.0'", "IP address that peers are listened to at."),
    key(
        "",
        "network_enr_address",
        Kind::Ip,
        "",
        "IP address at which others reach this node. If not set, they tell what they see.",
    ),
    key("", "network_enr_tcp_port", PORT, "1234", "TCP port at which others reach this node."),
    key("", "network_enr_udp_port", PORT, "1234", "UDP port at which others reach this node."),
    key("", "network_libp2p_port", PORT, "1234", "TCP port that peers are listened to at; 0 takes any free one."),
    key("", "network_discovery_port", PORT, "1234", "UDP port for finding peers; 0 takes any free one."),
    key("", "network_target_peers", Kind::Int(0, 1000), "50", "Peers that are wanted."),
    key(
        "",
        "network_boot_nodes",
        Kind::BootNodes,
        "[]",
        "Nodes to start from, such as \"/ip4/…/udp/1234/p2p/16Uiu2…\".",
    ),
    key("", "network_libp2p_nodes", Kind::Peers, "[]", "Nodes to connect to at the start, over TCP."),
    key("", "network_private", Kind::Bool, "false", "Does not tell others which program and version this is."),
    key("", "network_disable_discovery", Kind::Bool, "false", "Looks for no peers besides those that are named here."),
    key("", "network_find_chunks_enabled", Kind::Bool, "false", "Takes part in the search for parts of files."),
    key("", "discv5_request_timeout_secs", SECONDS, "5", "Time for an answer in discovery."),
    key("", "discv5_query_peer_timeout_secs", SECONDS, "2", "Time for a peer in a search."),
    key("", "discv5_request_retries", Kind::Int(0, 16), "1", "Further attempts of a request in discovery."),
    key("", "discv5_query_parallelism", Kind::Int(1, 64), "5", "Peers that a search asks at once."),
    key("", "discv5_report_discovered_peers", Kind::Bool, "false", "Reports peers before they are proven."),
    key("", "discv5_disable_packet_filter", Kind::Bool, "false", "Takes packets at any rate."),
    key("", "discv5_disable_ip_limit", Kind::Bool, "false", "Takes any number of nodes of one network."),
    key("", "discv5_disable_enr_network_id", Kind::Bool, "false", "Leaves the network out of the node's record."),
    // Chain.
    key(
        "",
        "blockchain_rpc_endpoint",
        Kind::Url,
        "'http://127.0.0.1:8545'",
        "JSON-RPC endpoint of the chain, over HTTP or WebSocket (ws:// or wss://).",
    ),
    key("", "log_contract_address", Kind::Address, "''", "The flow contract."),
    key("", "log_sync_start_block_number", ANY, "0", "Block that the flow contract was made in; its log starts there."),
    key(
        "",
        "force_log_sync_from_start_block_number",
        Kind::Bool,
        "false",
        "Reads the log from that block on again, whatever was read already.",
    )
    .no_effect("the log is compared with the chain, and read again from where it differs"),
    key("", "confirmation_block_count", Kind::Int(0, 10_000), "3", "Blocks behind the chain's last one that are read."),
    key("", "log_page_size", Kind::Int(1, 1_000_000), "999", "Most blocks in one question for the log."),
    key("", "max_cache_data_size", ANY, "104857600", "Memory for data of reverted files.")
        .no_effect("such data stays on disk, within a limit of the store"),
    key("", "cache_tx_seq_ttl", ANY, "500", "Transactions after which data of reverted files is dropped.")
        .no_effect("such data stays on disk, within a limit of the store"),
    key("", "rate_limit_retries", COUNT, "100", "Attempts when the endpoint limits calls.").no_effect(CHAIN_RETRIES),
    key("", "timeout_retries", COUNT, "100", "Attempts when the endpoint does not answer.").no_effect(CHAIN_RETRIES),
    key("", "initial_backoff", Kind::Int(1, 60_000), "500", "First pause between two attempts, in milliseconds."),
    key("", "recover_query_delay", COUNT, "50", "Pause between two questions for the log, in milliseconds.")
        .no_effect("blockchain_rpc_calls_per_second limits all calls"),
    key("", "default_finalized_block_count", ANY, "100", "Blocks until one counts as final.").no_effect(FINALITY),
    key("", "remove_finalized_block_interval_minutes", ANY, "30", "Pause between two removals of final blocks.")
        .no_effect(FINALITY),
    key(
        "",
        "watch_loop_wait_time_ms",
        Kind::Int(10, 600_000),
        "500",
        "Pause between two looks at the chain, in milliseconds; a block that is announced ends it.",
    ),
    key(
        "",
        "blockchain_rpc_timeout_secs",
        Kind::Int(1, 600),
        "10",
        "Longest time for an answer of the chain. Short on purpose: the next endpoint is asked then. The network's node \
         waits 120 s.",
    ),
    // Uploads.
    key("", "chunk_pool_write_window_size", COUNT, "4", "Segments of a file that are written at once.")
        .no_effect("segments are written in any order"),
    key(
        "",
        "chunk_pool_max_cached_chunks_all",
        Kind::Int(0, 1 << 32),
        "4194304",
        "Sectors of 256 bytes that are kept of files whose transaction is not known yet, all files together.",
    ),
    key("", "chunk_pool_max_writings", Kind::Int(1, 4096), "16", "Uploads that write at once."),
    key(
        "",
        "chunk_pool_expiration_time_secs",
        SECONDS,
        "300",
        "How long such sectors are kept after the last one came.",
    ),
    // Store.
    key("", "db_dir", Kind::Path, "'db'", "Folder of the store: database and sealed data. One node per folder."),
    key(
        "",
        "db_max_num_sectors",
        Kind::Int(1024, u64::MAX),
        "",
        "Most sectors of 256 bytes to keep: before they are exceeded the node keeps half its share of the flow. All are \
         kept if not set, and nothing is pruned.",
    ),
    key("", "prune_check_time_s", SECONDS, "60", "Pause between two looks at what can be pruned."),
    key("", "prune_batch_size", Kind::Int(1, 1 << 32), "16384", "Loads that are dropped in one go."),
    key("", "prune_batch_wait_time_ms", Kind::Int(0, 600_000), "1000", "Pause behind them, in milliseconds."),
    key("", "merkle_node_cache_capacity", ANY, "33554432", "Nodes of the flow tree in memory.")
        .no_effect("the tree is in the database; db_cache_bytes is its memory"),
    key(
        "",
        "log_config_file",
        Kind::Path,
        "'log_config'",
        "File with a filter for the log, such as \"info,zgpu_node=debug\", read again every 30 s. ZGPU_LOG comes before \
         it; without both the node logs at info.",
    ),
    key("", "log_directory", Kind::Path, "'log'", "Folder of log files.")
        .no_effect("logs go to stderr, for the service manager to keep"),
    // Mining.
    key(
        "",
        "mine_contract_address",
        Kind::Address,
        "''",
        "The mine contract; the flow contract leads to it if not set.",
    ),
    key(
        "",
        "miner_id",
        Kind::Hash,
        "",
        "The miner's id. If not set, the store's, or a new one that is registered for the key.",
    ),
    key(
        "",
        "miner_key",
        Kind::Secret,
        "",
        "The miner's key. Whoever reads this file can take what it owns: miner_key_file, miner_keystore and ZGPU_MINER_KEY \
         are better.",
    ),
    key("", "miner_cpu_percentage", Kind::Int(1, u64::MAX), "100", "Part of the processor's time for mining.")
        .no_effect("the engine takes what the device has; limit the process by its service manager"),
    key("", "mine_iter_batch_size", ANY, "100", "Nonces that are tried in one go.")
        .no_effect("each device has a batch of its own"),
    key(
        "",
        "reward_contract_address",
        Kind::Address,
        "''",
        "The reward contract. The mine contract leads to it; if set, it must be the same.",
    ),
    key(
        "",
        "shard_position",
        Kind::Shard,
        "",
        "Share id/count of the flow to keep, such as \"0/1\" for everything. Once something is stored the share can only \
         become narrower.",
    ),
    key(
        "",
        "mine_context_query_seconds",
        Kind::Int(1, 3600),
        "5",
        "Longest pause between two looks at the mining context; a block that is announced ends it.",
    ),
    // Sections.
    key("network_peer_db", "max_disconnected_peers", ANY, "500", "Peers that are remembered.").no_effect(PEERS),
    key("network_peer_db", "max_banned_peers", ANY, "1000", "Banned peers that are remembered.").no_effect(PEERS),
    key(
        "network_peer_db",
        "banned_peers_per_ip_threshold",
        ANY,
        "5",
        "Banned peers after which an IP address is banned.",
    )
    .no_effect(PEERS),
    key(
        "network_peer_db",
        "allowed_negative_gossipsub_factor",
        Kind::Float(0.0, 1.0),
        "0.1",
        "Part of the peers whose gossip score may be negative.",
    )
    .no_effect(PEERS),
    key("network_peer_db", "dial_timeout", SPAN, "'15s'", "Time for a dial.").no_effect("a dial has 10 s"),
    key("network_peer_manager", "heartbeat_interval", SPAN, "'30s'", "Pause between two looks at the peers.")
        .no_effect(PEERS),
    key("network_peer_manager", "discovery_enabled", Kind::Bool, "true", "Looks for peers when there are too few."),
    key("network_peer_manager", "target_peer_count", COUNT, "50", "Peers that are wanted.")
        .no_effect("network_target_peers says it"),
    key("network_peer_manager", "status_interval", SECONDS, "300", "Seconds between two handshakes with a peer."),
    key(
        "network_peer_manager",
        "ping_interval_inbound",
        SECONDS,
        "20",
        "Seconds between two pings of a peer that dialled.",
    )
    .no_effect("it is a third more than ping_interval_outbound"),
    key(
        "network_peer_manager",
        "ping_interval_outbound",
        SECONDS,
        "15",
        "Seconds between two pings of a peer that was dialled.",
    ),
    key("router", "heartbeat_interval", SPAN, "'5s'", "Pause between two looks at connections."),
    key("router", "idle_time", SPAN, "'180s'", "Time after which an idle connection may be cut."),
    key("router", "max_idle_incoming_peers", COUNT, "12", "Idle incoming connections."),
    key("router", "max_idle_outgoing_peers", COUNT, "20", "Idle outgoing connections."),
    key(
        "router",
        "private_ip_enabled",
        Kind::Bool,
        "false",
        "Takes peers with private addresses: test networks alone.",
    ),
    key("router", "check_announced_ip", Kind::Bool, "false", "Takes announcements only from the address they name."),
    key(
        "router",
        "public_address",
        Kind::Ip,
        "",
        "IP address in announcements; if not set, network_enr_address, or else the one that peers see.",
    ),
    key("router", "batcher_timeout", SPAN, "'1s'", "Time after which announcements are sent."),
    key("router", "batcher_file_capacity", Kind::Int(0, 256), "1", "Files in an announcement."),
    key("router", "batcher_announcement_capacity", Kind::Int(0, 1024), "1", "Announcements in a message."),
    key("sync", "neighbors_only", Kind::Bool, "true", "Asks connected peers for files, not the whole network."),
    key("sync", "heartbeat_interval", SPAN, "'3s'", "Pause between two looks at files that are being fetched."),
    key("sync", "auto_sync_enabled", Kind::Bool, "false", "Fetches the files of all transactions from peers."),
    key("sync", "max_sync_files", Kind::Int(1, 4096), "16", "Files that are fetched at once."),
    key("sync", "sync_file_by_rpc_enabled", Kind::Bool, "true", "Fetches files that the operator asks for."),
    key("sync", "sync_file_on_announcement_enabled", Kind::Bool, "false", "Fetches files that peers announce."),
    key("sync", "max_chunks_to_request", Kind::Int(1, 1 << 20), "2048", "Most sectors in a request.")
        .no_effect("a request is one segment, of 1024 sectors"),
    key("sync", "max_request_failures", COUNT, "3", "Failures after which a peer is dropped."),
    key("sync", "peer_connect_timeout", SPAN, "'15s'", "Time to connect to a peer."),
    key("sync", "peer_disconnect_timeout", SPAN, "'15s'", "Time to disconnect from a peer.")
        .no_effect("a connection is cut after 2 s"),
    key("sync", "peer_find_timeout", SPAN, "'5s'", "Time to find peers that have a file."),
    key("sync", "peer_chunks_download_timeout", SPAN, "'15s'", "Time for the answer to a request."),
    key("sync", "peer_wait_outgoing_connection_timeout", SPAN, "'10s'", "Time to wait for a free outgoing connection.")
        .no_effect("other peers are asked meanwhile"),
    key("sync", "peer_next_chunks_request_wait_timeout", SPAN, "'3s'", "Pause before a request is made again."),
    key("sync", "max_bandwidth_bytes", ANY, "0", "Most bytes in a second that are fetched; 0 for no limit."),
    key("sync", "bandwidth_wait_timeout", SPAN, "'5s'", "Longest wait for that limit."),
    key("sync", "auto_sync_idle_interval", SPAN, "'3s'", "Pause of automatic sync when there is nothing to do."),
    key("sync", "auto_sync_error_interval", SPAN, "'10s'", "Pause of automatic sync after a failure."),
    key("sync", "max_sequential_workers", Kind::Int(0, 4096), "0", "Files that automatic sync fetches in their order."),
    key("sync", "max_random_workers", Kind::Int(0, 4096), "8", "Files that automatic sync fetches in any order."),
    key("sync", "sequential_find_peer_timeout", SPAN, "'5s'", "Time to find peers for a file in order."),
    key("sync", "random_find_peer_timeout", SPAN, "'5s'", "Time to find peers for a file in any order."),
    key("sync", "ready_txs_cache_cap", COUNT, "1000000", "Announced files that are remembered."),
    key("file_location_cache", "max_entries_total", COUNT, "1000000", "Announced places of files that are remembered."),
    key("file_location_cache", "max_entries_per_file", Kind::Int(1, 256), "4", "Of them, places of one file."),
    key(
        "file_location_cache",
        "entry_expiration_time_secs",
        Kind::Int(1, u64::MAX),
        "86400",
        "Age at which a place is forgotten.",
    ),
    key("rpc", "enabled", Kind::Bool, "true", "Serves clients."),
    key("rpc", "listen_address", Kind::Socket, "'0.0.0.0:5678'", "Where clients are served: the zgs methods."),
    key(
        "rpc",
        "listen_address_admin",
        Kind::Socket,
        "'127.0.0.1:5679'",
        "Where the operator is: the admin and miner methods. \"\" leaves them out; that of listen_address puts them beside \
         the others, for everyone.",
    ),
    key(
        "rpc",
        "listen_address_grpc",
        Kind::Socket,
        "'0.0.0.0:50051'",
        "Where uploads over gRPC are taken; \"\" for nowhere.",
    ),
    key("rpc", "chunks_per_segment", Kind::Int(1024, 1024), "1024", "Sectors in a segment; the protocol's own number."),
    key("rpc", "max_request_body_size", Kind::Int(1 << 20, 1 << 30), "104857600", "Longest request, in bytes."),
    key(
        "rpc",
        "max_cache_file_size",
        Kind::Int(0, 1 << 40),
        "10485760",
        "Largest file, in bytes, of which segments are kept before its transaction is known.",
    ),
    key("submission_config", "initial_gas_price", ANY, "", "First price of gas that is offered, in wei.")
        .no_effect("the chain says what it asks for"),
    key(
        "submission_config",
        "max_gas_price",
        Kind::Int(1, u64::MAX),
        "",
        "Most wei that are offered for a unit of gas.",
    ),
    key("submission_config", "max_gas", Kind::Int(21_000, u64::MAX), "", "Most gas that an answer may need."),
    key(
        "submission_config",
        "gas_increase_factor",
        Kind::Int(11, 100),
        "11",
        "What a transaction that is stuck is replaced with, in tenths of its price.",
    ),
    key("submission_config", "max_retries", ANY, "5", "Attempts to send an answer.")
        .no_effect("an answer is sent for as long as it is valid"),
    key("submission_config", "interval_secs", ANY, "2", "Pause between two attempts.")
        .no_effect("an answer is sent for as long as it is valid"),
    key(
        "metrics",
        "listen",
        Kind::Socket,
        "'127.0.0.1:5680'",
        "Where /metrics (Prometheus), /status (JSON) and /health are; \"\" for nowhere.",
    ),
    key(
        "metrics",
        "status_line_interval",
        Kind::Span(0, 86_400_000),
        "'60s'",
        "Pause between two status lines on the log; \"0s\" for none.",
    ),
];

/// The key of this section and name.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// True when a section of this name exists.
pub(super) fn is_section(name: &str) -> bool {
    !name.is_empty() && KEYS.iter().any(|key| key.section == name)
}

/// What somebody who wrote this key may have meant, as the end of a sentence; empty when nothing is near.
pub(super) fn hint(section: &str, name: &str) -> String {
    if let Some(elsewhere) = KEYS.iter().find(|key| key.name == name) {
        return match elsewhere.section {
            "" => format!(" in [{section}]; {name:?} stands before the first section"),
            other => format!("; {name:?} belongs in section [{other}]"),
        };
    }
    // Half a key's letters may be wrong, three at most: what is further away is something else.
    let far = (name.len() / 2).min(3);
    let distance = |key: &&Key| (edits(key.name, name), key.section != section);
    match KEYS.iter().min_by_key(distance) {
        Some(near) if edits(near.name, name) <= far => format!("; did you mean {:?}?", near.path()),
        _ => String::new(),
    }
}

/// Letters that have to be added, taken out or changed to get from one word to the other.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_distinct_and_their_defaults_fit() {
        let mut seen = HashSet::new();
        let mut sections: Vec<&str> = KEYS.iter().map(|key| key.section).collect();
        sections.dedup();
        assert_eq!(
            sections.iter().collect::<HashSet<_>>().len(),
            sections.len(),
            "a section is in one piece: {sections:?}"
        );
        for key in KEYS {
            assert!(seen.insert(key.path()), "{} is there twice", key.path());
            assert!(key.doc.ends_with('.') && !key.doc.contains('\n'), "{}", key.path());
            if !key.default.is_empty() {
                let value = &toml::from_str::<toml::Table>(&format!("a = {}", key.default)).unwrap()["a"];
                key.kind.check(value).unwrap_or_else(|error| panic!("{}: {error}", key.path()));
            }
        }
    }

    #[test]
    fn what_was_meant_is_guessed() {
        for (section, name, hint_is) in [
            ("", "log_page_sise", "; did you mean \"log_page_size\"?"),
            ("sync", "auto_sync_enable", "; did you mean \"sync.auto_sync_enabled\"?"),
            ("", "max_banned_peers", "; \"max_banned_peers\" belongs in section [network_peer_db]"),
            ("rpc", "db_dir", " in [rpc]; \"db_dir\" stands before the first section"),
            ("", "entirely_different", ""),
            ("", "x", ""),
        ] {
            assert_eq!(hint(section, name), hint_is, "{section}.{name}");
        }
        assert_eq!((edits("", "abc"), edits("abc", "abd"), edits("abc", "bc"), edits("ab", "ba")), (3, 1, 1, 2));
    }
}
