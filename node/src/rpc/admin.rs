//! Methods for who runs the node: they stop it, steer the miner, and tell about peers and sync.
//!
//! The node does not take files from peers yet. Methods about that say what is true without it: nothing is synced and
//! no peer is known. Those that would have to do something refuse.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Api, Methods, MinerCommand, error::RpcError, types::SyncServiceState};

/// Adds the methods to a server; those of the miner only when there is one.
pub(super) fn register(methods: &mut Methods, has_miner: bool) {
    methods.read("admin_shutdown", |api, _| {
        api.shutdown.send_replace(true);
        Ok(())
    });
    methods.read("admin_getMetrics", |api, params| {
        let prefix: Option<String> = params.sequence().optional_next()?;
        Ok(api.metrics.list(prefix.as_deref().unwrap_or_default()))
    });

    methods.read("admin_startSyncFile", |api, params| {
        let (seq,): (u64,) = params.parse()?;
        api.refuse_sync(seq)
    });
    methods.read("admin_startSyncChunks", |api, params| {
        let (seq, _, _): (u64, u64, u64) = params.parse()?;
        api.refuse_sync(seq)
    });
    methods.read("admin_terminateSync", |_, params| {
        let (_,): (u64,) = params.parse()?;
        Ok(false)
    });
    methods.read("admin_getSyncServiceState", |_, _| {
        Ok(SyncServiceState { num_syncing: 0, catched_up: None, auto_sync_serial: None, auto_sync_random: None })
    });
    methods.read("admin_getSyncStatus", |_, params| {
        let (_,): (u64,) = params.parse()?;
        Ok("unknown")
    });
    methods.read("admin_getSyncInfo", |_, params| {
        let _: Option<u64> = params.sequence().optional_next()?;
        Ok(BTreeMap::<u64, Value>::new())
    });
    methods.read("admin_getPeers", |_, _| Ok(BTreeMap::<String, Value>::new()));
    methods.read("admin_getFileLocation", |api, params| {
        let (seq, all_shards): (u64, bool) = params.parse()?;
        api.store.transaction(seq)?.ok_or_else(|| RpcError::failed("tx not found"))?;
        // No location is known, so the known ones do not cover all shards.
        Ok((!all_shards).then(Vec::<Value>::new))
    });
    methods.read("admin_getNetworkInfo", |_, _| Err(RpcError::NotSupported) as Result<Value, RpcError>);
    methods.read("admin_findFile", |_, params| {
        let (_,): (u64,) = params.parse()?;
        Err(RpcError::NotSupported) as Result<Value, RpcError>
    });

    if has_miner {
        methods.read("miner_start", |api, _| Ok(api.command(MinerCommand::Start)));
        methods.read("miner_stop", |api, _| Ok(api.command(MinerCommand::Stop)));
        methods.read("miner_setStartPosition", |api, params| {
            let (position,): (u64,) = params.parse()?;
            Ok(api.command(MinerCommand::SetStartPosition(position)))
        });
    }
}

impl Api {
    fn refuse_sync(&self, seq: u64) -> Result<(), RpcError> {
        self.store.transaction(seq)?.ok_or_else(|| RpcError::failed("Transaction not found"))?;
        Err(RpcError::failed("Disabled to sync file"))
    }

    /// True when the miner got the command.
    fn command(&self, command: MinerCommand) -> bool {
        self.miner.as_ref().is_some_and(|miner| miner.try_send(command).is_ok())
    }
}
