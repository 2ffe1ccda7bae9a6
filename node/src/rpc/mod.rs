//! The JSON-RPC interface of a storage node: what clients upload and download through, and what its operator asks.
//!
//! [`serve`] starts two servers over one store: the public one has the `zgs_*` methods, the other the `admin_*` and
//! `miner_*` ones. With one address for both there is one server with all of them. Both speak JSON-RPC 2.0 over HTTP. A
//! third takes uploads over gRPC.
//!
//! All work on the store runs on blocking threads, a bounded number at once; bodies of requests share a budget of
//! memory. What a server has no room for waits, and is refused only when it has waited long.

mod admin;
mod calls;
mod error;
mod grpc;
mod limits;
mod metrics;
mod pool;
pub(crate) mod types;
mod zgs;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use jsonrpsee::{
    Extensions, RpcModule,
    server::{BatchRequestConfig, Server, ServerConfig, ServerHandle, middleware::http::HostFilterLayer},
    types::{ErrorObjectOwned, Params},
};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tower_http::cors::{Any, CorsLayer};
use zgpu_core::H256;

pub use self::{
    calls::CallMetrics,
    pool::PoolSettings,
    types::{NetworkIdentity, ProtocolVersion},
};
use self::{
    error::RpcError,
    grpc::{GrpcParts, GrpcServer},
    limits::{BodyBudget, Gate, Room},
    metrics::Metrics,
    pool::Pool,
};
use crate::{
    duties::blocking,
    files::FilesHandle,
    store::{Store, StoreError},
};

/// Where the interface listens, and how much it takes.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// Address of the public methods. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Address of the methods for the operator; none leaves them out, that of `listen` puts them beside the others.
    pub listen_admin: Option<SocketAddr>,
    /// Address for uploads over gRPC; none leaves them out.
    pub listen_grpc: Option<SocketAddr>,
    /// Which network this is.
    pub network: NetworkIdentity,
    /// What is kept of files whose transaction is not known.
    pub pool: PoolSettings,
    /// Longest body of a request, in bytes. Default 100 MiB.
    pub max_request_bytes: u32,
    /// Longest message over gRPC, in bytes. Default 4 MiB, as the network's node has it.
    pub max_grpc_message_bytes: u32,
    /// Longest body of an answer, in bytes. Default 10 MiB.
    pub max_response_bytes: u32,
    /// Bytes of requests that are in memory at once. Default 256 MiB.
    pub max_request_bytes_together: usize,
    /// Most calls in a batch. Default 100.
    pub max_batch: u32,
    /// Most connections. Default 1024.
    pub max_connections: u32,
    /// Most uploads that write at once. Default 16.
    pub max_writers: usize,
    /// Most other calls that run at once. Default 32.
    pub max_readers: usize,
    /// How long a call waits for its turn before it is refused. Default 30 s.
    pub patience: Duration,
    /// Longest time for a request as a whole. Default 120 s.
    pub request_timeout: Duration,
    /// Where calls are counted.
    pub calls: CallMetrics,
}

impl RpcConfig {
    /// Public methods at `listen`, nothing for the operator, everything else as the defaults are.
    pub fn new(listen: SocketAddr, network: NetworkIdentity) -> Self {
        RpcConfig {
            listen,
            listen_admin: None,
            listen_grpc: None,
            network,
            pool: PoolSettings::default(),
            max_request_bytes: 100 << 20,
            max_grpc_message_bytes: 4 << 20,
            max_response_bytes: 10 << 20,
            max_request_bytes_together: 256 << 20,
            max_batch: 100,
            max_connections: 1024,
            max_writers: 16,
            max_readers: 32,
            patience: Duration::from_secs(30),
            request_timeout: Duration::from_secs(120),
            calls: CallMetrics::default(),
        }
    }
}

/// What the rest of the node tells about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// Peers that it is connected to.
    pub connected_peers: u64,
    /// Block up to which the log is read; 0 before the first.
    pub log_sync_height: u64,
    /// Hash of that block.
    pub log_sync_block: H256,
}

/// What the operator wants of the miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinerCommand {
    /// Mine.
    Start,
    /// Stop mining.
    Stop,
    /// Mine from this sector of the flow on.
    SetStartPosition(u64),
}

/// What the interface is connected to.
pub struct Connections {
    /// What it serves.
    pub store: Store,
    /// The node's state; when its sender goes, the last one stays.
    pub status: watch::Receiver<NodeStatus>,
    /// The miner, if the node mines.
    pub miner: Option<mpsc::Sender<MinerCommand>>,
    /// Files from peers, if the node has a network.
    pub files: Option<FilesHandle>,
}

/// Why the interface does not start.
#[derive(Debug, thiserror::Error)]
pub enum RpcStartError {
    /// An address cannot be listened at.
    #[error("the RPC cannot listen at {address}: {source}; choose another address")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The running interface. It stops when this is dropped.
#[derive(Debug)]
pub struct RpcHandle {
    public: SocketAddr,
    admin: Option<SocketAddr>,
    servers: Vec<ServerHandle>,
    grpc: Option<GrpcServer>,
    pool: JoinHandle<()>,
    shutdown: watch::Receiver<bool>,
}

impl RpcHandle {
    /// Where the public methods are.
    pub fn address(&self) -> SocketAddr {
        self.public
    }

    /// Where the methods for the operator are, if they are anywhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where uploads over gRPC are taken, if they are anywhere.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(GrpcServer::address)
    }

    /// Waits until the operator asks the node to stop.
    pub async fn shutdown_requested(&self) {
        // The sender lives in the servers, so it goes only with them.
        let _ = self.shutdown.clone().wait_for(|wanted| *wanted).await;
    }

    /// Stops taking requests and waits until those that run are answered.
    pub async fn stop(mut self) {
        if let Some(grpc) = self.grpc.take() {
            grpc.stop().await;
        }
        for server in std::mem::take(&mut self.servers) {
            // An error says that it has stopped already.
            let _ = server.stop();
            server.stopped().await;
        }
    }
}

impl Drop for RpcHandle {
    fn drop(&mut self) {
        self.pool.abort();
        for server in &self.servers {
            let _ = server.stop();
        }
    }
}

/// What the methods work with.
struct Api {
    store: Store,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    node: watch::Receiver<NodeStatus>,
    network: NetworkIdentity,
    miner: Option<mpsc::Sender<MinerCommand>>,
    files: Option<FilesHandle>,
    shutdown: watch::Sender<bool>,
}

/// Starts the interface.
pub async fn serve(config: RpcConfig, to: Connections) -> Result<RpcHandle, RpcStartError> {
    let Connections { store, status, miner, files } = to;
    let metrics = Arc::new(Metrics::default());
    let (opening, settings, counting) = (store.clone(), config.pool.clone(), metrics.clone());
    let pool = Arc::new(blocking(move || Pool::open(opening, settings, counting)).await?);
    let (shutdown, wanted) = watch::channel(false);
    let has_miner = miner.is_some();
    let network = config.network.clone();
    let api = Arc::new(Api { store, pool: pool.clone(), metrics, node: status, network, miner, files, shutdown });
    let gates = Gates {
        reads: Gate::new(config.max_readers, config.patience),
        writes: Gate::new(config.max_writers, config.patience),
    };
    let new_methods =
        || Methods { module: RpcModule::from_arc(api.clone()), gates: gates.clone(), calls: config.calls.clone() };
    let budget = BodyBudget::new(config.max_request_bytes_together, config.max_request_bytes, config.request_timeout);

    let mut public = new_methods();
    zgs::register(&mut public);
    let is_shared = config.listen_admin == Some(config.listen);
    if is_shared {
        admin::register(&mut public, has_miner);
    }
    let mut servers = Vec::new();
    let (public, server) = start(&config, config.listen, public, budget.clone(), false).await?;
    servers.push(server);
    let mut admin = is_shared.then_some(public);
    if let Some(address) = config.listen_admin.filter(|_| !is_shared) {
        let mut methods = new_methods();
        admin::register(&mut methods, has_miner);
        let (address, server) = start(&config, address, methods, budget.clone(), address.ip().is_loopback()).await?;
        servers.push(server);
        admin = Some(address);
    }
    let grpc = match config.listen_grpc {
        Some(address) => {
            let parts = GrpcParts {
                api,
                writers: gates.writes,
                budget,
                max_message_bytes: config.max_grpc_message_bytes as usize,
                timeout: config.request_timeout,
            };
            Some(grpc::serve(address, parts).await?)
        }
        None => None,
    };
    Ok(RpcHandle { public, admin, servers, grpc, pool: tokio::spawn(pool.run()), shutdown: wanted })
}

/// Starts one server. A private one is for programs on this machine: no web page may call it, whatever name it gives
/// the machine.
async fn start(
    config: &RpcConfig,
    address: SocketAddr,
    methods: Methods,
    budget: BodyBudget,
    is_private: bool,
) -> Result<(SocketAddr, ServerHandle), RpcStartError> {
    let settings = ServerConfig::builder()
        .max_request_body_size(config.max_request_bytes)
        .max_response_body_size(config.max_response_bytes)
        .max_connections(config.max_connections)
        .set_batch_request_config(BatchRequestConfig::Limit(config.max_batch))
        .http_only()
        .build();
    let hosts = if is_private {
        let names = ["localhost:*", "127.0.0.1:*", "[::1]:*"];
        HostFilterLayer::new(names).expect("these are host names")
    } else {
        HostFilterLayer::disable()
    };
    let cors = (!is_private).then(|| CorsLayer::new().allow_origin(Any).allow_methods(Any).allow_headers(Any));
    let layers = tower::ServiceBuilder::new().layer(budget).option_layer(cors).layer(hosts);
    let failed = |source| RpcStartError::Listen { address, source };
    let server =
        Server::builder().set_config(settings).set_http_middleware(layers).build(address).await.map_err(failed)?;
    let address = server.local_addr().map_err(failed)?;
    Ok((address, server.start(methods.module)))
}

#[derive(Clone)]
struct Gates {
    reads: Gate,
    writes: Gate,
}

/// Methods of a server. Each is a function of the parameters that blocks.
struct Methods {
    module: RpcModule<Api>,
    gates: Gates,
    calls: CallMetrics,
}

impl Methods {
    fn read<T, F>(&mut self, name: &'static str, run: F)
    where
        T: Serialize + Clone + Send + 'static,
        F: Fn(&Api, &Params<'_>) -> Result<T, RpcError> + Copy + Send + Sync + 'static,
    {
        let busy = |count| RpcError::failed(format!("too many requests: {count}"));
        self.add(name, self.gates.reads.clone(), busy, run);
    }

    fn write<F>(&mut self, name: &'static str, run: F)
    where
        F: Fn(&Api, &Params<'_>) -> Result<(), RpcError> + Copy + Send + Sync + 'static,
    {
        let busy = |count| RpcError::failed(format!("too many data writing: {count}"));
        self.add(name, self.gates.writes.clone(), busy, run);
    }

    fn add<T, F>(&mut self, name: &'static str, gate: Gate, busy: fn(usize) -> RpcError, run: F)
    where
        T: Serialize + Clone + Send + 'static,
        F: Fn(&Api, &Params<'_>) -> Result<T, RpcError> + Copy + Send + Sync + 'static,
    {
        let calls = self.calls.clone();
        let call = move |params: Params<'static>, api: Arc<Api>, extensions: Extensions| {
            let (gate, calls) = (gate.clone(), calls.clone());
            let room = extensions.get::<Room>().cloned();
            async move {
                let started = Instant::now();
                let answer = match gate.enter().await {
                    Ok(place) => {
                        // Place and room go with the work, not with the client's patience.
                        let work = move || {
                            let (_place, _room) = (place, room);
                            run(&api, &params)
                        };
                        blocking(work).await
                    }
                    Err(count) => Err(busy(count)),
                };
                calls.ended(name, answer.is_ok(), started.elapsed());
                answer.map_err(ErrorObjectOwned::from)
            }
        };
        self.module.register_async_method(name, call).expect("each name is registered once");
    }
}

/// The address of this machine that only it can reach, with a free port.
pub fn any_local_port() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}
