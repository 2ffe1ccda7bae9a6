//! The stages of DA encoding, and whole blobs, from bytes to serialised slices.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ark_bn254::Fr;
use zgpu_core::{
    blob::{Dimensions, DimensionsError},
    device::{BackendChoice, DeviceInfo},
};
use zgpu_encoder::{
    encode::encode,
    engine::{self, EncodeError, Engine, EngineOptions, StageTimes},
    params::{ParamsError, ProverParams},
};

use crate::{
    limit::{self, EncodeLimit},
    noise,
    report::{Line, Report},
};

/// Matrices that are measured: the full size, and that of the comparison with the plain twin, as log2 of rows and columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) whole: (u32, u32),
    pub(crate) twin: (u32, u32),
}

/// A blob of the network, and one that the plain twin encodes in a few seconds.
pub(crate) const SIZES: Sizes = Sizes { whole: (10, 10), twin: (8, 8) };

/// How long whole blobs are encoded for, one behind the other: at least [`MIN_BLOBS`].
const STAGE: Duration = Duration::from_secs(3);
const MIN_BLOBS: usize = 2;
/// A secret that everybody knows.
const TAU: u64 = 0x5bd1_e995_9e37_79b9;

/// Why the encoder cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum EncodeBenchError {
    /// A blob was not encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// There is no such matrix.
    #[error(transparent)]
    Dimensions(#[from] DimensionsError),
    /// There are no parameters.
    #[error(transparent)]
    Params(#[from] ParamsError),
}

/// Measures the encoder on the device that `choice` names.
pub(crate) fn run(choice: BackendChoice, sizes: Sizes) -> Result<Report, EncodeBenchError> {
    let mut lines = Vec::new();
    let (params, mut engines, opening) = open(choice, sizes.whole)?;
    let dimensions = params.dimensions();
    let device = engines[0].info().clone();
    let host_cores = thread::available_parallelism().map_or(1, usize::from);
    let limit = limit::encoding(&device, dimensions, host_cores);
    let data = noise(dimensions.max_data_bytes());
    let size = size(dimensions);
    let line = |stage, workers: String, time: Duration, blobs: f64, limit: Option<f64>| {
        let rate = data.len() as f64 * blobs / time.as_secs_f64() / 1e6;
        let limit = limit.map(|seconds| data.len() as f64 / seconds / 1e6);
        Line {
            stage,
            level: size.clone(),
            workers,
            rate,
            unit: "MB/s",
            seconds: Some(time.as_secs_f64() / blobs),
            limit,
            ratio: limit.map(|limit| rate / limit),
            speedup: None,
        }
    };

    let times = stage_times(engines[0].as_mut(), &data)?;
    let one = || "1 lane".to_string();
    lines.push(line("open", one(), opening, 1.0, None));
    lines.push(line("extend", one(), times.extend, 1.0, limit.map(|limit| limit.extend)));
    lines.push(line("commit", one(), times.commit, 1.0, limit.map(|limit| limit.commit)));
    lines.push(line("hash", one(), times.hash, 1.0, limit.map(|limit| limit.hash)));
    lines.push(line("slices", one(), times.slices, 1.0, None));
    lines.push(line("check", one(), times.check, 1.0, None));
    lines.push(line("blob", one(), times.total(), 1.0, limit.map(|limit| limit.blob())));
    if engines.len() > 1 {
        let (blobs, time) = on_all_lanes(&mut engines, &data)?;
        lines.push(line(
            "blob",
            format!("{} lanes", engines.len()),
            time,
            blobs as f64,
            limit.map(|limit| limit.blob()),
        ));
    }
    drop((engines, params));
    let (fast, twin) = beside_the_twin(choice, sizes.twin)?;
    lines.push(fast);
    Ok(Report { name: "encode", host_cores, limit_rule: rule(&device, limit), device, twin: vec![twin], lines })
}

fn rule(device: &DeviceInfo, limit: Option<EncodeLimit>) -> String {
    limit.map_or_else(|| "not known for this device".into(), |_| limit::encoding_rule(device.backend).into())
}

fn size(dimensions: Dimensions) -> String {
    format!("2^{}x2^{}", dimensions.lg_rows(), dimensions.lg_scalars() - dimensions.lg_rows())
}

type Opened = (Arc<ProverParams>, Vec<Box<dyn Engine>>, Duration);

/// The engines of the device with parameters that are for measuring only, and how long it took to open them.
fn open(choice: BackendChoice, (lg_rows, lg_columns): (u32, u32)) -> Result<Opened, EncodeBenchError> {
    let dimensions = Dimensions::new(lg_rows, lg_columns)?;
    let params = Arc::new(ProverParams::insecure_from_tau(dimensions, Fr::from(TAU), 3 * dimensions.scalars() as u64)?);
    let start = Instant::now();
    let engines = engine::open(choice, &params, EngineOptions::default()).map_err(EncodeError::from)?;
    Ok((params, engines, start.elapsed()))
}

/// Times of the fastest of a few blobs, one behind the other; the first warms up and does not count.
fn stage_times(engine: &mut dyn Engine, data: &[u8]) -> Result<StageTimes, EncodeError> {
    let mut slices = Vec::new();
    engine.encode(data, &mut slices)?;
    let mut best: Option<StageTimes> = None;
    let start = Instant::now();
    for _ in 0.. {
        let times = engine.encode(data, &mut slices)?.times;
        if best.is_none_or(|best| times.total() < best.total()) {
            best = Some(times);
        }
        if start.elapsed() >= STAGE {
            break;
        }
    }
    Ok(best.expect("at least one blob"))
}

/// Blobs on all lanes at once, and how long they took.
fn on_all_lanes(engines: &mut [Box<dyn Engine>], data: &[u8]) -> Result<(usize, Duration), EncodeError> {
    let start = Instant::now();
    let run = |engine: &mut Box<dyn Engine>| {
        let mut slices = Vec::new();
        let mut blobs = 0;
        while blobs < MIN_BLOBS || start.elapsed() < STAGE {
            engine.encode(data, &mut slices)?;
            blobs += 1;
        }
        Ok::<usize, EncodeError>(blobs)
    };
    let blobs = thread::scope(|scope| {
        let running: Vec<_> = engines.iter_mut().map(|engine| scope.spawn(move || run(engine))).collect();
        running.into_iter().map(|lane| lane.join().expect("a lane does not panic")).sum::<Result<usize, _>>()
    })?;
    Ok((blobs, start.elapsed()))
}

/// A small blob on the device, and the same blob by the plain twin on all cores of the host.
fn beside_the_twin(choice: BackendChoice, lg_size: (u32, u32)) -> Result<(Line, Line), EncodeBenchError> {
    let (params, mut engines, _) = open(choice, lg_size)?;
    let data = noise(params.dimensions().max_data_bytes());
    let fast = stage_times(engines[0].as_mut(), &data)?.total().as_secs_f64();
    let start = Instant::now();
    encode(&params, &data).map_err(EncodeError::from)?.all_slices();
    let plain = start.elapsed().as_secs_f64();
    let line = |stage, workers: String, seconds: f64| Line {
        stage,
        level: size(params.dimensions()),
        workers,
        rate: data.len() as f64 / seconds / 1e6,
        unit: "MB/s",
        seconds: Some(seconds),
        limit: None,
        ratio: None,
        speedup: Some(plain / seconds),
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Ok((line("blob", "1 lane".into(), fast), line("twin", format!("{cores} threads"), plain)))
}
