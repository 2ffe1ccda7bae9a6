//! The networks that are known by name: what their operators' configurations have in common.
//!
//! Chain ids, contracts and start blocks as deployed; boot nodes and settings as the networks publish them.

/// A network that is known by name.
pub(super) struct Preset {
    pub(super) name: &'static str,
    /// Settings as a TOML document.
    pub(super) toml: &'static str,
}

pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "mainnet",
        toml: r#"
            chain_id = 16661
            blockchain_rpc_endpoint = "https://evmrpc.0g.ai"
            log_contract_address = "0x62D4144dB0F0a6fBBaeb6296c785C71B3D57C526"
            mine_contract_address = "0xCd01c5Cd953971CE4C2c9bFb95610236a7F414fe"
            reward_contract_address = "0x457aC76B58ffcDc118AABD6DbC63ff9072880870"
            log_sync_start_block_number = 2387557
            confirmation_block_count = 1
            network_boot_nodes = [
                "/ip4/34.66.131.173/udp/1234/p2p/16Uiu2HAmG81UgZ1JJLx9T2HqELgJNP36ChHzYkCdA9HdxvAbb5jQ",
                "/ip4/34.60.163.4/udp/1234/p2p/16Uiu2HAmL3DoA7e7mbxs7CkeCPtNrAcfJFFtLpJDr2HWuR6QwJ8k",
                "/ip4/34.169.236.186/udp/1234/p2p/16Uiu2HAm489RdhEgZUFmNTR4jdLEE4HjrvwaPCkEpSYSgvqi1CbR",
                "/ip4/34.71.110.60/udp/1234/p2p/16Uiu2HAmBfGfbLNRegcqihiuXhgSXWNpgiGm6EwW2SYexfPUNUHQ",
            ]
            [sync]
            auto_sync_enabled = true
        "#,
    },
    Preset {
        name: "mainnet-standard",
        toml: r#"
            chain_id = 16661
            blockchain_rpc_endpoint = "https://evmrpc.0g.ai"
            log_contract_address = "0x2c2cd9a241186F6C0080e66CC47139B8B4A2E5fa"
            mine_contract_address = "0x406b93ED7c0afB554C4FDA0Ba594865a40A2357c"
            reward_contract_address = "0x8873cc79c5b3b5666535C825205C9a128B1D75F1"
            log_sync_start_block_number = 10566563
            network_boot_nodes = [
                "/ip4/136.118.67.12/udp/1234/p2p/16Uiu2HAkzAFu5eNS4vt3SXkMSCYSEkQ9Gcnu5MZnyy4LXQ8ki6f7",
                "/ip4/136.117.5.50/udp/1234/p2p/16Uiu2HAmLayW5kas3XLgxRPeJBRxVnhoqG4WayLd7FHfGbUezqXm",
            ]
            [sync]
            auto_sync_enabled = true
        "#,
    },
    Preset {
        name: "testnet",
        toml: r#"
            chain_id = 16602
            blockchain_rpc_endpoint = "https://evmrpc-testnet.0g.ai"
            log_contract_address = "0x22E03a6A89B950F1c82ec5e74F8eCa321a105296"
            mine_contract_address = "0x00A9E9604b0538e06b268Fb297Df333337f9593b"
            reward_contract_address = "0xA97B57b4BdFEA2D0a25e535bd849ad4e6C440A69"
            log_sync_start_block_number = 1
            confirmation_block_count = 1
            chunk_pool_max_writings = 128
            db_max_num_sectors = 4000000000
            network_boot_nodes = [
                "/ip4/35.236.80.213/udp/1234/p2p/16Uiu2HAm1w2Lkr4vsnHUgHiyQBpVXmDuvuLP9SDUZaY5tkZudSME",
                "/ip4/34.102.76.235/udp/1234/p2p/16Uiu2HAmPQ9WTyYbstNPFX4Va8gH5cfkLJ5fJL9h7U4sgJyaHbcm",
            ]
            [sync]
            auto_sync_enabled = true
        "#,
    },
    Preset {
        name: "testnet-standard",
        toml: r#"
            chain_id = 16602
            blockchain_rpc_endpoint = "https://evmrpc-testnet.0g.ai"
            log_contract_address = "0x0460aA47b41a66694c0a73f667a1b795A5ED3556"
            mine_contract_address = "0x1785c8683b3c527618eFfF78d876d9dCB4b70285"
            reward_contract_address = "0x0496D0817BD8519e0de4894Dc379D35c35275609"
            log_sync_start_block_number = 595059
            db_max_num_sectors = 4000000000
            network_boot_nodes = [
                "/ip4/47.251.88.201/udp/1234/p2p/16Uiu2HAmFGrDV8wKToa1dd8uh6bz8bSY28n33iRP3pvfeBU6ysCw",
                "/ip4/47.76.49.188/udp/1234/p2p/16Uiu2HAmBb7PQzvfZjHBENcF7E7mZaiHSrpBoH7mKTyNijYdqMM6",
            ]
            [sync]
            auto_sync_enabled = true
        "#,
    },
];
