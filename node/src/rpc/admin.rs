//! Methods for who runs the node: they stop it, steer the miner, and tell about peers and sync.
//!
//! Without a network, methods about files and peers say what is true then: nothing is synced and no peer is known. Those
//! that would have to do something refuse.

use std::collections::BTreeMap;

use super::{
    Api, Methods, MinerCommand,
    error::RpcError,
    types::{FileSyncInfo, LocationInfo, NetworkInfo, PeerInfo, SyncServiceState},
};
use crate::{
    files::{FilesHandle, StartError},
    net::Overview,
};

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
        match &api.files {
            Some(files) => Ok(files.start_file(seq)?),
            None => api.refuse_sync(seq),
        }
    });
    methods.read("admin_startSyncChunks", |api, params| {
        let (seq, start, end): (u64, u64, u64) = params.parse()?;
        match &api.files {
            Some(files) => Ok(files.start_chunks(seq, start..end)?),
            None => api.refuse_sync(seq),
        }
    });
    methods.read("admin_terminateSync", |api, params| {
        let (seq,): (u64,) = params.parse()?;
        Ok(api.files.as_ref().is_some_and(|files| files.terminate(seq)))
    });
    methods.read("admin_getSyncServiceState", |api, _| {
        let state = api.files.as_ref().map(FilesHandle::service_state);
        Ok(state.map_or_else(SyncServiceState::default, SyncServiceState::from))
    });
    methods.read("admin_getSyncStatus", |api, params| {
        let (seq,): (u64,) = params.parse()?;
        Ok(api.files.as_ref().map_or_else(|| "unknown".into(), |files| files.sync_status(seq)))
    });
    methods.read("admin_getSyncInfo", |api, params| {
        let seq: Option<u64> = params.sequence().optional_next()?;
        let infos = api.files.as_ref().map(|files| files.sync_info(seq)).unwrap_or_default();
        Ok(infos.into_iter().map(|(seq, info)| (seq, info.into())).collect::<BTreeMap<u64, FileSyncInfo>>())
    });
    methods.read("admin_getPeers", |api, _| {
        let peers = match api.files {
            Some(_) => api.overview()?.peers,
            None => Vec::new(),
        };
        Ok(peers.into_iter().map(|it| (it.peer.to_base58(), it.into())).collect::<BTreeMap<String, PeerInfo>>())
    });
    methods.read("admin_getFileLocation", |api, params| {
        let (seq, all_shards): (u64, bool) = params.parse()?;
        api.store.transaction(seq)?.ok_or_else(|| RpcError::failed("tx not found"))?;
        let locations = match &api.files {
            Some(files) => files.file_location(seq, all_shards)?,
            // No location is known, so the known ones do not cover all shards.
            None => (!all_shards).then(Vec::new),
        };
        Ok(locations.map(|locations| locations.into_iter().map(LocationInfo::from).collect::<Vec<_>>()))
    });
    methods.read("admin_getNetworkInfo", |api, _| {
        let files = api.files.as_ref().ok_or(RpcError::NotSupported)?;
        Ok(NetworkInfo::new(files.local_peer(), &api.overview()?))
    });
    methods.read("admin_findFile", |api, params| {
        let (seq,): (u64,) = params.parse()?;
        Ok(api.files.as_ref().ok_or(RpcError::NotSupported)?.find_file(seq)?)
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

    /// The network as it is now. Called on a blocking thread.
    fn overview(&self) -> Result<Overview, RpcError> {
        let files = self.files.as_ref().ok_or(RpcError::NotSupported)?;
        let overview = tokio::runtime::Handle::current().block_on(files.network_info());
        overview.map_err(|error| RpcError::failed(error.to_string()))
    }

    /// True when the miner got the command.
    fn command(&self, command: MinerCommand) -> bool {
        self.miner.as_ref().is_some_and(|miner| miner.try_send(command).is_ok())
    }
}

impl From<StartError> for RpcError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            refused => RpcError::failed(refused.to_string()),
        }
    }
}
