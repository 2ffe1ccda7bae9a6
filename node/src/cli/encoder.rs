//! `zgpu encoder`: the service that dispersers call.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use zgpu_core::device::{BackendChoice, BackendKind, DeviceError, DeviceInfo, UnusableDevice};
use zgpu_encoder::{
    engine::{self, EngineOptions, open_at},
    params::{self, ProverParams},
};

use crate::encoder::{DEFAULT_PORT, Device, EncoderOptions, EncoderService, OpenError};

const AFTER_HELP: &str = "\
gRPC: encoder.Encoder/EncodeBlob as dispersers call it, with grpc.health.v1 and reflection. A disperser is pointed at it \
with its encoder address and needs nothing else.

While the parameters are missing, calls fail with FAILED_PRECONDITION, and the folder is looked at again and again. \
Ctrl-C and SIGTERM finish what is inside, within --grace seconds, and exit with 0.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct EncoderArgs {
    /// The parameters: a file that `zgpu params` made, or a folder with it or with the network's prover files.
    #[arg(long, value_name = "PATH")]
    params: PathBuf,
    /// Address for calls.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Devices to encode on: auto (all CUDA cards, else all wgpu adapters that are no software, else the CPU), cpu, cuda
    /// or wgpu.
    #[arg(long, default_value_t, value_name = "BACKEND", conflicts_with = "devices")]
    backend: BackendChoice,
    /// Devices to encode on, by the names that `zgpu devices` shows: cuda:0,cuda:1.
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    devices: Vec<DeviceName>,
    /// Most blobs that wait; more are refused with RESOURCE_EXHAUSTED. Each takes 31 MiB.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=4096))]
    queue: u32,
    /// Memory for tables and blobs on each device, in bytes, or with a unit: 20GiB. The backend's choice if left out.
    #[arg(long, value_name = "BYTES")]
    memory: Option<Bytes>,
    /// Address for /metrics (Prometheus) and /status (JSON) over HTTP; neither is served if left out.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Longest time for what is inside to be finished at the end.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=3600))]
    grace: u32,
}

/// A device by backend and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DeviceName {
    backend: BackendKind,
    index: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no device; they are named cuda:0, wgpu:1 or cpu:0")]
struct NoDeviceName(String);

impl FromStr for DeviceName {
    type Err = NoDeviceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once(':').and_then(|(backend, index)| {
            let known = [BackendKind::Cpu, BackendKind::Cuda, BackendKind::Wgpu];
            let backend = known.into_iter().find(|kind| kind.to_string() == backend)?;
            Some(DeviceName { backend, index: index.parse().ok()? })
        });
        parts.ok_or_else(|| NoDeviceName(text.chars().take(40).collect()))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
struct Bytes(u64);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no number of bytes; write 8000000000, 500MiB or 20GiB")]
struct NoBytes(String);

impl FromStr for Bytes {
    type Err = NoBytes;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
        let unit = units.into_iter().find_map(|(unit, lg)| Some((text.strip_suffix(unit)?, lg)));
        let (digits, lg) = unit.unwrap_or((text, 0));
        let bytes = digits.trim().parse::<u64>().ok().and_then(|count| count.checked_mul(1 << lg));
        bytes.map(Bytes).ok_or_else(|| NoBytes(text.chars().take(40).collect()))
    }
}

/// The parameters, read once for all devices; again and again until they are there.
struct Params {
    folder: PathBuf,
    read: Mutex<Option<Arc<ProverParams>>>,
}

impl Params {
    fn get(&self) -> Result<Arc<ProverParams>, OpenError> {
        // A thread that panicked while it read left nothing behind.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(params) = &*read {
            return Ok(Arc::clone(params));
        }
        let params = params::load_dir(&self.folder).map_err(|error| OpenError::Parameters(error.to_string()))?;
        Ok(Arc::clone(read.insert(Arc::new(params))))
    }
}

pub(super) fn run(args: EncoderArgs) -> anyhow::Result<ExitCode> {
    let (usable, unusable) = engine::devices();
    let chosen = choose(&args, &usable, unusable)?;
    let params = Arc::new(Params { folder: args.params.clone(), read: Mutex::new(None) });
    let options = EngineOptions { memory_bytes: args.memory.map(|bytes| bytes.0) };
    let devices: Vec<Device> = chosen
        .iter()
        .map(|device| {
            let (backend, index, params) = (device.backend, device.index, Arc::clone(&params));
            let open = move || Ok(open_at(backend, index, &params.get()?, options)?);
            Device { name: format!("{backend}:{index}"), open: Box::new(open) }
        })
        .collect();
    let names: Vec<String> = chosen.iter().map(|d| format!("{}:{} {}", d.backend, d.index, d.name)).collect();
    let options = EncoderOptions {
        metrics: args.metrics,
        queue: args.queue as usize,
        grace: Duration::from_secs(args.grace.into()),
        ..EncoderOptions::new(args.listen)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(options, devices, &names));
    runtime.shutdown_timeout(Duration::from_secs(2));
    served?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: EncoderOptions, devices: Vec<Device>, names: &[String]) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
    let service = EncoderService::start(options, devices).await?;
    let metrics = service.metrics_address().map_or(String::new(), |address| format!(", http://{address}/metrics"));
    eprintln!("listening on {}{metrics}; opening {}", service.address(), names.join(", "));
    let mut serving = service.serving();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            changed = serving.changed() => {
                changed.context("the service ended")?;
                eprintln!("{}", if *serving.borrow_and_update() { "ready" } else { "not ready: no device can be used" });
            }
        }
    }
    eprintln!("shutting down: what is inside is finished first");
    service.shutdown().await?;
    Ok(())
}

/// The devices that the arguments name.
fn choose(args: &EncoderArgs, usable: &[DeviceInfo], unusable: Vec<UnusableDevice>) -> anyhow::Result<Vec<DeviceInfo>> {
    let of = |kind: BackendKind, software: bool| {
        usable.iter().filter(move |device| device.backend == kind && device.software == software).cloned().collect()
    };
    let first = |lists: Vec<Vec<DeviceInfo>>| lists.into_iter().find(|list| !list.is_empty());
    if !args.devices.is_empty() {
        let mut chosen = Vec::<DeviceInfo>::new();
        for DeviceName { backend, index } in args.devices.iter().copied() {
            let is_it = |device: &&DeviceInfo| device.backend == backend && device.index == index;
            if chosen.iter().any(|device| is_it(&device)) {
                bail!("{backend}:{index} is named twice");
            }
            let found = usable.iter().find(is_it).cloned();
            let missing = || format!("{backend}:{index} cannot be used; `zgpu devices` says what can, and why not");
            chosen.push(found.with_context(missing)?);
        }
        return Ok(chosen);
    }
    let (lists, backend) = match args.backend {
        BackendChoice::Auto => {
            let lists = vec![of(BackendKind::Cuda, false), of(BackendKind::Wgpu, false), of(BackendKind::Cpu, false)];
            (lists, BackendKind::Cpu)
        }
        BackendChoice::Cpu => (vec![of(BackendKind::Cpu, false)], BackendKind::Cpu),
        BackendChoice::Cuda => (vec![of(BackendKind::Cuda, false)], BackendKind::Cuda),
        BackendChoice::Wgpu => (vec![of(BackendKind::Wgpu, false), of(BackendKind::Wgpu, true)], BackendKind::Wgpu),
    };
    match first(lists) {
        Some(list) => Ok(list),
        None => {
            let others = unusable.into_iter().filter(|device| device.backend == backend).collect();
            bail!(DeviceError::none_usable(backend, others))
        }
    }
}
