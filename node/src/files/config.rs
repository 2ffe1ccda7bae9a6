//! Settings of files between peers. Defaults are the network's.

use std::time::Duration;

use libp2p::Multiaddr;

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct FilesConfig {
    /// How files are fetched.
    pub sync: SyncConfig,
    /// What is remembered of who has which file.
    pub locations: LocationConfig,
    /// How this node speaks about itself, and whom it stays connected to.
    pub router: RouterConfig,
}

/// How files are fetched.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// True when only neighbours are asked at first; the network is asked when that gives nothing. Default true.
    pub neighbors_only: bool,
    /// Time between two looks at what is over. Default 3 s.
    pub heartbeat_interval: Duration,
    /// True when files are fetched without being told to. Default false.
    pub auto_sync_enabled: bool,
    /// Files that are fetched at once. Default 16.
    pub max_sync_files: usize,
    /// True when the operator may have files fetched. Default true.
    pub sync_file_by_rpc_enabled: bool,
    /// True when a file is fetched because somebody far away announces it. Default false.
    pub sync_file_on_announcement_enabled: bool,
    /// Requests in a row that a peer may fail before it is asked no more for a file. Default 3.
    pub max_request_failures: u32,
    /// Time for a connection to a peer that has a file. Default 15 s.
    pub peer_connect_timeout: Duration,
    /// Time between two questions who has a file. Default 5 s.
    pub peer_find_timeout: Duration,
    /// Time for one segment. Default 15 s.
    pub peer_chunks_download_timeout: Duration,
    /// Time before a peer that knows another state of the chain is asked again. Default 3 s.
    pub peer_next_chunks_request_wait_timeout: Duration,
    /// Bytes in a second that are fetched at most; 0 for no limit. Default 0.
    pub max_bandwidth_bytes: u64,
    /// Time for which a segment may wait for the limit above at once. Default 5 s.
    pub bandwidth_wait_timeout: Duration,
    /// Time that idle workers sleep. Default 3 s.
    pub auto_sync_idle_interval: Duration,
    /// Time before a file that nobody had is looked for again; each time twice as long. Default 10 s.
    pub auto_sync_error_interval: Duration,
    /// Workers that fetch old files in order. Default 0.
    pub max_sequential_workers: usize,
    /// Workers that fetch new files, then old ones. Default 8.
    pub max_random_workers: usize,
    /// Time between two questions who has a file, for the former. Default 5 s.
    pub sequential_find_peer_timeout: Duration,
    /// The same for the latter. Default 5 s.
    pub random_find_peer_timeout: Duration,
    /// Files that are remembered to be fetched. Default 1 000 000.
    pub ready_txs_cache_cap: usize,
    /// True when single segments are looked for in the whole network. Default false.
    pub find_chunks_enabled: bool,
    /// Segments of one file that are under way at once. Default 16.
    pub max_segments_per_file: usize,
    /// Segments that one peer is asked for at once. Default 4.
    pub max_segments_per_peer: usize,
}

impl Default for SyncConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        SyncConfig {
            neighbors_only: true,
            heartbeat_interval: seconds(3),
            auto_sync_enabled: false,
            max_sync_files: 16,
            sync_file_by_rpc_enabled: true,
            sync_file_on_announcement_enabled: false,
            max_request_failures: 3,
            peer_connect_timeout: seconds(15),
            peer_find_timeout: seconds(5),
            peer_chunks_download_timeout: seconds(15),
            peer_next_chunks_request_wait_timeout: seconds(3),
            max_bandwidth_bytes: 0,
            bandwidth_wait_timeout: seconds(5),
            auto_sync_idle_interval: seconds(3),
            auto_sync_error_interval: seconds(10),
            max_sequential_workers: 0,
            max_random_workers: 8,
            sequential_find_peer_timeout: seconds(5),
            random_find_peer_timeout: seconds(5),
            ready_txs_cache_cap: 1_000_000,
            find_chunks_enabled: false,
            max_segments_per_file: 16,
            max_segments_per_peer: 4,
        }
    }
}

/// What is remembered of who has which file.
#[derive(Clone, Debug)]
pub struct LocationConfig {
    /// Announcements of all files together. Default 1 000 000.
    pub max_entries_total: usize,
    /// Announcements of one file. Default 4.
    pub max_entries_per_file: usize,
    /// Age at which an announcement is forgotten. Default 86 400 s.
    pub entry_expiration: Duration,
}

impl Default for LocationConfig {
    fn default() -> Self {
        LocationConfig {
            max_entries_total: 1_000_000,
            max_entries_per_file: 4,
            entry_expiration: Duration::from_secs(86_400),
        }
    }
}

/// How this node speaks about itself, and whom it stays connected to.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Time between two looks for idle peers. Default 5 s.
    pub heartbeat_interval: Duration,
    /// Time without a request after which a peer is idle. Default 180 s.
    pub idle_time: Duration,
    /// Idle peers that stay, of those that dialled us. Default 12.
    pub max_idle_incoming_peers: usize,
    /// Idle peers that stay, of those that we dialled. Default 20.
    pub max_idle_outgoing_peers: usize,
    /// True when private addresses are announced and believed: test networks alone. Default false.
    pub private_ip_enabled: bool,
    /// True when who announces a file must be seen at the address that it announces. Default false.
    pub check_announced_ip: bool,
    /// Where this node is to be reached, such as `/ip4/1.2.3.4/tcp/1234`; without it, the first public address that it
    /// listens at, or else the one at which others see it. Default `None`.
    pub public_address: Option<Multiaddr>,
    /// Time for which announcements are gathered. Default 1 s.
    pub batcher_timeout: Duration,
    /// Files in an announcement, at most 256. Default 1.
    pub batcher_file_capacity: usize,
    /// Announcements in a message, at most 64. Default 1.
    pub batcher_announcement_capacity: usize,
}

impl Default for RouterConfig {
    fn default() -> Self {
        RouterConfig {
            heartbeat_interval: Duration::from_secs(5),
            idle_time: Duration::from_secs(180),
            max_idle_incoming_peers: 12,
            max_idle_outgoing_peers: 20,
            private_ip_enabled: false,
            check_announced_ip: false,
            public_address: None,
            batcher_timeout: Duration::from_secs(1),
            batcher_file_capacity: 1,
            batcher_announcement_capacity: 1,
        }
    }
}
