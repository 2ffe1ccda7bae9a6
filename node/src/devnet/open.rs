//! A devnet that stays: its node takes files from the network's clients until somebody stops it.

use std::{net::SocketAddr, time::Duration};

use alloy::hex;
use anyhow::Context;
use tokio::sync::watch;

use super::{Devnet, Folder, progress::Steps};
use crate::{
    duties::sync::{LogSync, SyncOptions},
    rpc::{Connections, NetworkIdentity, NodeStatus, ProtocolVersion, RpcConfig, RpcHandle, serve},
    store::Store,
};

/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Which of anvil's accounts clients may use; the first ones are the devnet's own.
const CLIENT_ACCOUNT: usize = 2;

/// A devnet whose node serves clients. It stops when this is dropped.
pub(super) struct OpenDevnet {
    _devnet: Devnet,
    _folder: Folder,
    rpc: RpcHandle,
    _sync: LogSync,
}

impl OpenDevnet {
    /// Opens the interface, with all methods at one address, and follows the log from now on.
    pub(super) async fn start(
        devnet: Devnet,
        store: Store,
        folder: Folder,
        address: SocketAddr,
        steps: &Steps,
    ) -> anyhow::Result<Self> {
        let network = NetworkIdentity {
            chain_id: devnet.chain.chain_id(),
            flow_address: devnet.deployment.flow.to_string().to_lowercase(),
            p2p_protocol_version: ProtocolVersion { major: 0, minor: 4, build: 0 },
        };
        let (status, node) = watch::channel(NodeStatus::default());
        let mut config = RpcConfig::new(address, network);
        // All methods at one address, as tools that test nodes want it; not where others could reach them.
        config.listen_admin = address.ip().is_loopback().then_some(address);
        let rpc = serve(config, Connections { store: store.clone(), status: node, miner: None, files: None }).await?;
        let options = SyncOptions {
            start_block: devnet.deployment.start_block,
            confirmations: 0,
            poll: POLL,
            ..SyncOptions::default()
        };
        let sync = LogSync::start(devnet.chain.clone(), store, options);
        sync.publish(status);
        steps.done(&format!("node for clients at http://{}; ctrl-c stops the devnet", rpc.address()));
        steps.done(&format!("  chain {}", devnet.anvil.endpoint()));
        steps.done(&format!("  flow contract {}", devnet.deployment.flow));
        let key = devnet.anvil.keys().get(CLIENT_ACCOUNT).context("anvil has too few accounts")?;
        steps.done(&format!("  key of a funded account, anvil's own: 0x{}", hex::encode(key.to_bytes())));
        Ok(OpenDevnet { _devnet: devnet, _folder: folder, rpc, _sync: sync })
    }

    /// Waits for ctrl-c, or for the operator's `admin_shutdown`.
    pub(super) async fn until_stopped(self) -> anyhow::Result<()> {
        tokio::select! {
            signal = tokio::signal::ctrl_c() => signal.context("signals cannot be received"),
            () = self.rpc.shutdown_requested() => Ok(()),
        }
    }
}
