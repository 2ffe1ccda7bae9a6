//! The stages of mining: draw, scan, a whole nonce on resident loads, and sealing.

use std::time::{Duration, Instant};

use zgpu_core::{
    device::{BackendChoice, BackendKind, DeviceError},
    units::{BYTES_PER_LOAD, BYTES_PER_SEAL, SEALS_PER_LOAD},
    work::{DrawJob, ScanItem},
};
use zgpu_miner::{
    DeviceVisitor,
    cpu::{CpuDevice, Level},
    plain,
    seam::{Prospector, Sealer},
    with_device,
};

use crate::{
    limit::{self, Limit},
    noise,
    report::{Line, Report},
};

/// How long each stage runs.
const STAGE: Duration = Duration::from_millis(800);
/// Loads that are uploaded in one piece, 16 MiB: all that a software adapter scans.
const PIECE: u32 = 64;
/// Loads that the scan chooses from, 256 MiB: more than a cache holds.
const LOADS: u32 = 1024;
/// Bytes that one call seals on a CPU thread; a device with large batches gets more.
const SEAL_BYTES: usize = 4 << 20;

fn job(count: u32, nonce: u64) -> DrawJob {
    let mut nonce_base = [7; 32];
    nonce_base[24..].copy_from_slice(&nonce.to_be_bytes());
    DrawJob { miner_id: [1; 32], nonce_base, count, subtask_digest: [2; 32], range_digest: [3; 32] }
}

/// The plain twin on one core: what the reference node's hashing does.
#[derive(Clone, Copy)]
struct Twin {
    draws_per_second: f64,
    loads_per_second: f64,
    nonces_per_second: f64,
}

impl Twin {
    fn lines(&self) -> Vec<Line> {
        let line = |stage, rate, unit| Line {
            stage,
            level: "twin".into(),
            workers: "1 thread".into(),
            rate,
            unit,
            seconds: None,
            limit: None,
            ratio: None,
            speedup: Some(1.0),
        };
        vec![
            line("draw", self.draws_per_second, "nonces/s"),
            line("scan", self.loads_per_second, "loads/s"),
            line("nonce", self.nonces_per_second, "nonces/s"),
        ]
    }
}

/// Units of work a second: `step` is called until the stage's time is over and returns what it did; the first call
/// warms up and does not count.
fn rate(mut step: impl FnMut() -> Result<f64, DeviceError>) -> Result<f64, DeviceError> {
    step()?;
    let start = Instant::now();
    let mut done = 0.0;
    loop {
        done += step()?;
        let elapsed = start.elapsed();
        if elapsed >= STAGE {
            return Ok(done / elapsed.as_secs_f64());
        }
    }
}

fn twin() -> Result<Twin, DeviceError> {
    let load = noise(BYTES_PER_LOAD);
    let mut nonce = 0;
    let draw = |nonce| {
        let job = job(1, nonce);
        plain::draw(&job.miner_id, &job.nonce_base, &job.subtask_digest, &job.range_digest)
    };
    let pad = draw(0);
    let draws_per_second = rate(|| {
        nonce += 1;
        std::hint::black_box(draw(nonce));
        Ok(1.0)
    })?;
    let loads_per_second = rate(|| {
        for seal in 0..SEALS_PER_LOAD {
            let sealed = load[seal * BYTES_PER_SEAL..].first_chunk().expect("a load has 64 seals");
            std::hint::black_box(plain::quality(&pad, seal, sealed));
        }
        Ok(1.0)
    })?;
    let nonces_per_second = 1.0 / (1.0 / draws_per_second + 1.0 / loads_per_second);
    Ok(Twin { draws_per_second, loads_per_second, nonces_per_second })
}

/// Rates of the four stages.
struct Stages {
    draw: f64,
    scan: f64,
    nonce: f64,
    /// Bytes a second.
    seal: f64,
}

/// What a lane scans: pads of its own, loads shared.
struct Field<P: Prospector> {
    device: P,
    batch: u32,
    pads: P::Pads,
    loads: P::Loads,
    items: Vec<ScanItem>,
    seeds: Vec<[u8; 32]>,
    hits: Vec<zgpu_core::work::ScanHit>,
    nonce: u64,
}

impl<P: Prospector> Field<P> {
    fn new(mut device: P, loads: P::Loads) -> Result<Self, DeviceError> {
        let batch = device.preferred_batch();
        let pads = device.alloc_pads(batch)?;
        // An odd factor spreads neighbouring nonces over all loads.
        let slots = loads_for(&device);
        let item = |i: u32| ScanItem { pad_slot: i, load_slot: i.wrapping_mul(397) % slots, available: u64::MAX };
        let items = (0..batch).map(item).collect();
        Ok(Field { device, batch, pads, loads, items, seeds: Vec::new(), hits: Vec::new(), nonce: 0 })
    }

    fn draw(&mut self) -> Result<f64, DeviceError> {
        let job = job(self.batch, self.nonce);
        self.nonce += u64::from(self.batch);
        self.device.draw(&job, &mut self.pads, &mut self.seeds)?;
        Ok(f64::from(self.batch))
    }

    fn scan(&mut self) -> Result<f64, DeviceError> {
        self.device.scan(&self.pads, &self.loads, &self.items, &[0; 32], &mut self.hits)?;
        Ok(f64::from(self.batch))
    }
}

fn loads_for<P: Prospector>(device: &P) -> u32 {
    if device.info().software { PIECE } else { LOADS }
}

fn loads_on<P: Prospector>(device: &mut P) -> Result<P::Loads, DeviceError> {
    let slots = loads_for(device);
    let mut loads = device.alloc_loads(slots)?;
    let piece = noise(PIECE as usize * BYTES_PER_LOAD);
    for first_slot in (0..slots).step_by(PIECE as usize) {
        device.upload_loads(&mut loads, first_slot, &piece)?;
    }
    Ok(loads)
}

fn stages<P: Prospector + Sealer>(mut device: P) -> Result<Stages, DeviceError> {
    let loads = loads_on(&mut device)?;
    let mut field = Field::new(device, loads)?;
    let draw = rate(|| field.draw())?;
    let scan = rate(|| field.scan())?;
    let nonce = rate(|| {
        field.draw()?;
        field.scan()
    })?;
    let mut data = noise(SEAL_BYTES.max(field.batch as usize / 16 * BYTES_PER_SEAL));
    let masks = vec![[5; 32]; data.len() / BYTES_PER_SEAL];
    let seal = rate(|| {
        field.device.seal(&masks, &mut data)?;
        Ok(data.len() as f64)
    })?;
    Ok(Stages { draw, scan, nonce, seal })
}

/// Nonces a second on all of the device's lanes at once.
fn nonces_on_lanes<P: Prospector>(mut device: P) -> Result<f64, DeviceError> {
    let loads = loads_on(&mut device)?;
    let lanes = device.preferred_lanes();
    let fields = (0..lanes).map(|_| Field::new(device.lane()?, loads.clone())).collect::<Result<Vec<_>, _>>()?;
    let run = |mut field: Field<P>| {
        rate(move || {
            field.draw()?;
            field.scan()
        })
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = fields.into_iter().map(|field| scope.spawn(move || run(field))).collect();
        running.into_iter().map(|lane| lane.join().expect("a lane does not panic")).sum()
    })
}

fn lines(stages: &Stages, level: &str, workers: &str, cores: f64, limit: Option<Limit>, twin: &Twin) -> Vec<Line> {
    const GIB: f64 = (1u64 << 30) as f64;
    let line = |stage, rate: f64, unit, limit: Option<f64>, twin: Option<f64>| Line {
        stage,
        level: level.to_string(),
        workers: workers.to_string(),
        rate,
        unit,
        seconds: None,
        limit,
        ratio: limit.map(|limit| rate / limit),
        speedup: twin.map(|twin| rate / cores / twin),
    };
    vec![
        line("draw", stages.draw, "nonces/s", limit.map(|limit| limit.draws()), Some(twin.draws_per_second)),
        line("scan", stages.scan, "loads/s", limit.map(|limit| limit.scans()), Some(twin.loads_per_second)),
        line("nonce", stages.nonce, "nonces/s", limit.map(|limit| limit.nonces()), Some(twin.nonces_per_second)),
        line("seal", stages.seal / GIB, "GiB/s", limit.map(|limit| limit.seals()), None),
    ]
}

/// Every level of the CPU on one thread, and the best on all.
fn on_cpu() -> Result<Report, DeviceError> {
    let host_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (twin, clock) = (twin()?, limit::clock());
    let mut all = Vec::new();
    let (usable, _) = zgpu_miner::cpu::list();
    let levels = Level::ALL.into_iter().filter(|level| usable.iter().any(|info| info.level == level.to_string()));
    for (i, level) in levels.enumerate() {
        let (name, limit) = (level.to_string(), limit::cpu(&level.to_string(), clock));
        all.extend(lines(&stages(CpuDevice::with_threads(level, 1)?)?, &name, "1 thread", 1.0, limit, &twin));
        if i == 0 && host_cores > 1 {
            let cores = host_cores as f64;
            let stages = stages(CpuDevice::with_threads(level, host_cores)?)?;
            let limit = limit.map(|limit| limit.times(cores));
            all.extend(lines(&stages, &name, &format!("{host_cores} threads"), cores, limit, &twin));
        }
    }
    Ok(Report {
        name: "pora",
        device: CpuDevice::open(0)?.info().clone(),
        host_cores,
        limit_rule: format!("{}; {:.2} GHz", limit::CPU_RULE, clock / 1e9),
        twin: twin.lines(),
        lines: all,
    })
}

struct OnGpu;

impl DeviceVisitor for OnGpu {
    type Output = Result<Report, DeviceError>;

    fn visit<P: Prospector + Sealer + 'static>(self, device: P) -> Self::Output {
        let info = device.info().clone();
        let (twin, limit) = (twin()?, limit::cuda(&info));
        let mut all = lines(&stages(device.lane()?)?, &info.level, "1 lane", 1.0, limit, &twin);
        let lanes = device.preferred_lanes();
        let rate = nonces_on_lanes(device)?;
        all.push(Line {
            stage: "nonce",
            level: info.level.clone(),
            workers: format!("{lanes} lanes"),
            rate,
            unit: "nonces/s",
            seconds: None,
            limit: limit.map(|limit| limit.nonces()),
            ratio: limit.map(|limit| rate / limit.nonces()),
            speedup: Some(rate / twin.nonces_per_second),
        });
        let rule = limit.map_or("not known: the clock of the device is not", |_| limit::CUDA_RULE);
        let host_cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Report { name: "pora", device: info, host_cores, limit_rule: rule.into(), twin: twin.lines(), lines: all })
    }
}

/// Benchmarks the device that `choice` names.
pub(crate) fn run(choice: BackendChoice) -> Result<Report, DeviceError> {
    struct Backend;
    impl DeviceVisitor for Backend {
        type Output = BackendKind;
        fn visit<P: Prospector + Sealer + 'static>(self, device: P) -> BackendKind {
            device.info().backend
        }
    }
    match with_device(choice, Backend)? {
        BackendKind::Cpu => on_cpu(),
        BackendKind::Cuda | BackendKind::Wgpu => with_device(choice, OnGpu)?,
    }
}
