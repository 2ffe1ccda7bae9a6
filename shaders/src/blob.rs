//! Encoding of blobs: from bytes to serialised slices, all of it in device memory.

use std::sync::Arc;

use wgpu::{Buffer, BufferUsages, DeviceType};
use zgpu_core::blob::{
    BYTES_PER_DIGEST, BYTES_PER_LENGTH, BYTES_PER_POINT, BYTES_PER_RAW_SCALAR, BYTES_PER_SCALAR, BlobRoots, COSETS,
    Dimensions, ProverBases,
};
use zgpu_core::device::{DeviceError, DeviceInfo};
use zgpu_core::digest::{H256, parent};

use crate::commit::{BYTES_PER_PROJECTIVE, CommitBuffers, Cut, Nodes, Pieces, plan_commit};
use crate::device::Device;
use crate::plan::{Plan, Planner};
use crate::pora::{expect_at_most, expect_same, shape};
use crate::program::{self, Program};

/// Scalars of a sector, as log2.
const LG_SCALARS_PER_SECTOR: u32 = 3;
/// Powers of 1/2 at the end of the table of roots.
const HALVINGS: u32 = 32;
/// Bytes of one step of an upload or a read-back: bounds the memory that they take on the host's side.
const BYTES_PER_COPY: u64 = 16 << 20;
/// Memory for the lists and buckets of the pieces that a dispatch works on.
const SCRATCH_DISCRETE: u64 = 192 << 20;
/// The same on devices that share their memory, and on software.
const SCRATCH_OTHER: u64 = 64 << 20;
/// Lanes that share a budget of memory.
const LANES: u64 = 2;
/// Bits 255 and 254 of a serialised y: they are no part of the coordinate.
const POINT_FLAGS: u8 = 0xc0;

/// How the work on a blob is cut. The default takes what suits the device; other values serve tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobTuning {
    /// Most points in a piece of an MSM, as log2; at most 10 is taken.
    pub lg_points: Option<u32>,
    /// Bits of a digit of a scalar; 3 to 10 are taken.
    pub digit_bits: Option<u32>,
    /// Most pieces in one dispatch; at least 1 is taken.
    pub pieces: Option<u32>,
    /// Most bytes of one read-back; at least 4 are taken.
    pub copy_bytes: Option<u64>,
}

/// One lane of a device that encodes blobs. Lanes share the device, its queue and the prover's points.
///
/// Calls return when the work is queued, but for those that hand bytes back. Every call reports a failed device as
/// [`DeviceError::Lost`] from then on.
pub struct BlobDevice {
    opened: Arc<Opened>,
    /// Two slots: the device fills one while the host empties the other.
    read_back: [Buffer; 2],
}

/// What lanes share.
struct Opened {
    device: Arc<Device>,
    dimensions: Dimensions,
    programs: Programs,
    sizes: Sizes,
    pieces: Pieces,
    powers: Buffer,
    high_powers: Buffer,
    lagrange: [Buffer; COSETS],
    roots: Buffer,
    factors: Buffer,
    piece_table: Buffer,
}

/// The kernels of a blob, ready to run.
pub(crate) struct Programs {
    pub(crate) convert: Program,
    pub(crate) make_roots: Program,
    pub(crate) make_factors: Program,
    pub(crate) matrix: Program,
    pub(crate) butterflies: Program,
    pub(crate) coefficients: Program,
    pub(crate) scatter: Program,
    pub(crate) rows: Program,
    pub(crate) sort: Program,
    pub(crate) accumulate: Program,
    pub(crate) groups: Program,
    pub(crate) windows: Program,
    pub(crate) pieces: Program,
    pub(crate) runs: Program,
    pub(crate) children: Program,
    pub(crate) spread: Program,
    pub(crate) point_butterflies: Program,
    pub(crate) affine: Program,
    pub(crate) sectors: Program,
    pub(crate) parents: Program,
    pub(crate) slices: Program,
}

impl Programs {
    fn new(device: &Device) -> Result<Self, DeviceError> {
        Ok(Self {
            convert: device.new_program(&program::CONVERT)?,
            make_roots: device.new_program(&program::ROOTS)?,
            make_factors: device.new_program(&program::FACTORS)?,
            matrix: device.new_program(&program::MATRIX)?,
            butterflies: device.new_program(&program::BUTTERFLIES)?,
            coefficients: device.new_program(&program::COEFFICIENTS)?,
            scatter: device.new_program(&program::SCATTER)?,
            rows: device.new_program(&program::ROWS)?,
            sort: device.new_program(&program::SORT)?,
            accumulate: device.new_program(&program::ACCUMULATE)?,
            groups: device.new_program(&program::GROUPS)?,
            windows: device.new_program(&program::WINDOWS)?,
            pieces: device.new_program(&program::PIECES)?,
            runs: device.new_program(&program::RUNS)?,
            children: device.new_program(&program::CHILDREN)?,
            spread: device.new_program(&program::SPREAD)?,
            point_butterflies: device.new_program(&program::POINT_BUTTERFLIES)?,
            affine: device.new_program(&program::AFFINE)?,
            sectors: device.new_program(&program::SECTORS)?,
            parents: device.new_program(&program::PARENTS)?,
            slices: device.new_program(&program::SLICES)?,
        })
    }
}

/// Bytes of every buffer, and how the work is cut to fit them.
struct Sizes {
    cut: Cut,
    /// Pieces that one dispatch works on.
    batch: u32,
    /// Bytes of one read-back.
    copy: u64,
    /// log2 of the entries of each half of the table of roots.
    lg_half: u32,
    bases: u64,
    roots: u64,
    factors: u64,
    piece_table: u64,
    data: u64,
    /// Of N scalars.
    scalars: u64,
    order: u64,
    starts: u64,
    buckets: u64,
    window_sums: u64,
    piece_sums: u64,
    nodes: u64,
    points: u64,
    digests: u64,
    slices: u64,
}

impl Sizes {
    fn new(
        device: &Device,
        dimensions: Dimensions,
        cut: Cut,
        pieces: u64,
        memory: Option<u64>,
        tuning: BlobTuning,
    ) -> Result<Self, DeviceError> {
        let limits = &device.limits;
        let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let nodes = Nodes::new(dimensions);
        let [scalars, rows] = [dimensions.scalars(), dimensions.rows()].map(|count| count as u64);
        let lg_half = dimensions.lg_scalars().div_ceil(2) + 1;
        let points = nodes.count() - nodes.commitments();
        let mut sizes = Self {
            cut,
            batch: 0,
            copy: tuning.copy_bytes.unwrap_or(BYTES_PER_COPY).clamp(4, BYTES_PER_COPY) / 4 * 4,
            lg_half,
            bases: scalars * BYTES_PER_POINT as u64,
            roots: u64::from((2 << lg_half) + HALVINGS) * BYTES_PER_SCALAR as u64,
            factors: (2 * COSETS as u64 * rows + rows / 2) * BYTES_PER_SCALAR as u64,
            piece_table: pieces * 8,
            data: scalars * BYTES_PER_RAW_SCALAR as u64,
            scalars: scalars * BYTES_PER_SCALAR as u64,
            order: 0,
            starts: 0,
            buckets: 0,
            window_sums: pieces * u64::from(cut.windows()) * BYTES_PER_PROJECTIVE,
            piece_sums: pieces * BYTES_PER_PROJECTIVE,
            nodes: u64::from(nodes.count()) * BYTES_PER_PROJECTIVE,
            points: u64::from(points) * BYTES_PER_POINT as u64,
            digests: digests(dimensions) * BYTES_PER_DIGEST as u64,
            slices: dimensions.all_slices_bytes() as u64,
        };

        // Lists and buckets take what the budget leaves, up to what a device makes good use of.
        let scratch = cut.scratch_bytes();
        let piece = scratch.iter().sum::<u64>();
        let others = sizes.per_device().saturating_add(LANES * sizes.per_blob());
        let useful = match device.kind {
            DeviceType::DiscreteGpu | DeviceType::VirtualGpu => SCRATCH_DISCRETE,
            DeviceType::IntegratedGpu | DeviceType::Other | DeviceType::Cpu => SCRATCH_OTHER,
        };
        let known = Some(device.info.memory_bytes).filter(|bytes| *bytes != 0).unwrap_or(u64::MAX);
        let available = memory.unwrap_or(u64::MAX).min(known);
        let left = useful.min(available.saturating_sub(others) / LANES);
        if left < piece {
            let (device, wanted) = (device.info.name.clone(), others + LANES * piece);
            let what = "two blobs and the prover's points";
            return Err(DeviceError::OutOfMemory { device, what, wanted, available });
        }
        let bindable = scratch.iter().map(|bytes| largest / bytes).min().expect("three buffers");
        let most = pieces.min(left / piece).min(bindable).min(tuning.pieces.unwrap_or(u32::MAX).into()).max(1);
        sizes.batch = u32::try_from(most).expect("a tuned number, or one that fits a binding");
        [sizes.order, sizes.starts, sizes.buckets] = scratch.map(|bytes| bytes * most);

        let to_bind = [
            ("the prover's points", sizes.bases),
            ("rows of all cosets", COSETS as u64 * sizes.scalars),
            ("lists of points", sizes.order),
            ("starts of lists", sizes.starts),
            ("buckets", sizes.buckets),
            ("sums of windows", sizes.window_sums),
            ("digests", sizes.digests),
            ("slices", sizes.slices),
        ];
        match to_bind.into_iter().find(|(_, bytes)| *bytes > largest) {
            Some((what, wanted)) => {
                Err(DeviceError::OutOfMemory { device: device.info.name.clone(), what, wanted, available: largest })
            }
            None => Ok(sizes),
        }
    }

    fn per_device(&self) -> u64 {
        (2 + COSETS as u64) * self.bases + self.roots + self.factors + self.piece_table
    }

    /// All but lists and buckets.
    fn per_blob(&self) -> u64 {
        let scalars = (2 + COSETS as u64) * self.scalars;
        let sums = self.window_sums + self.piece_sums + self.nodes + self.points;
        self.data + scalars + sums + self.digests + self.slices + 2 * self.copy
    }
}

/// Twice the sectors of all encoded rows, which is more than the trees over them have digests. Level l begins at this less
/// itself shifted right by l.
fn digests(dimensions: Dimensions) -> u64 {
    (2 * COSETS * dimensions.scalars()) as u64 >> LG_SCALARS_PER_SECTOR
}

/// One blob on its way, in the memory of one device. Made once, used for blob after blob.
pub struct Blob {
    device: u64,
    dimensions: Dimensions,
    data: Buffer,
    coefficients: Buffer,
    cosets: Buffer,
    slices: Buffer,
    extend: Plan,
    commit: Plan,
    hash: Plan,
    serialise: Plan,
}

impl BlobDevice {
    /// Opens device `index` of [`crate::list`], compiles the kernels of a blob and uploads the prover's points.
    /// `memory` bounds the bytes that two lanes and their blobs take; `None` is what the device has.
    ///
    /// Fails with [`DeviceError::Unusable`] when there is no such device, with [`DeviceError::Shape`] unless `bases` are N
    /// points each, and with [`DeviceError::OutOfMemory`] when the matrix is larger than the device can bind or the budget.
    pub fn open(index: usize, bases: &ProverBases<'_>, memory: Option<u64>) -> Result<Self, DeviceError> {
        Self::open_tuned(index, bases, memory, BlobTuning::default())
    }

    /// [`BlobDevice::open`], with the work cut otherwise.
    pub fn open_tuned(
        index: usize,
        bases: &ProverBases<'_>,
        memory: Option<u64>,
        tuning: BlobTuning,
    ) -> Result<Self, DeviceError> {
        let bytes = (bases.dimensions.scalars() * BYTES_PER_POINT) as u64;
        for points in [bases.powers, bases.high_powers].iter().chain(&bases.lagrange) {
            expect_same("bytes of the prover's points", bytes, points.len() as u64)?;
        }
        Self::open_on(Device::open(index)?, bases, memory, tuning)
    }

    fn open_on(
        device: Arc<Device>,
        bases: &ProverBases<'_>,
        memory: Option<u64>,
        tuning: BlobTuning,
    ) -> Result<Self, DeviceError> {
        let dimensions = bases.dimensions;
        let cut = Cut::new(dimensions, tuning.lg_points, tuning.digit_bits);
        let pieces = Pieces::new(dimensions, cut);
        let sizes = Sizes::new(&device, dimensions, cut, pieces.count().into(), memory, tuning)?;
        let programs = Programs::new(&device)?;

        let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let uploaded = |what: &'static str, bytes: &[u8]| {
            let buffer = device.buffer(what, bytes.len() as u64, storage)?;
            upload(&device, &buffer, bytes)?;
            Ok::<Buffer, DeviceError>(buffer)
        };
        let [one, two, three] = bases.lagrange;
        let opened = Opened {
            powers: uploaded("powers", bases.powers)?,
            high_powers: uploaded("high powers", bases.high_powers)?,
            lagrange: [
                uploaded("Lagrange points", one)?,
                uploaded("Lagrange points", two)?,
                uploaded("Lagrange points", three)?,
            ],
            roots: device.buffer("roots of unity", sizes.roots, storage)?,
            factors: device.buffer("factors of points", sizes.factors, storage)?,
            piece_table: uploaded("pieces of MSMs", bytemuck::cast_slice(&pieces.table))?,
            device,
            dimensions,
            programs,
            sizes,
            pieces,
        };
        opened.prepare()?;
        Self::on(Arc::new(opened))
    }

    /// One more lane on the same device and queue, with the same points.
    pub fn lane(&self) -> Result<Self, DeviceError> {
        Self::on(Arc::clone(&self.opened))
    }

    fn on(opened: Arc<Opened>) -> Result<Self, DeviceError> {
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let slot = || opened.device.buffer("read-back memory", opened.sizes.copy, usage);
        Ok(Self { read_back: [slot()?, slot()?], opened })
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.opened.device.info
    }

    /// Size of the matrix.
    pub fn dimensions(&self) -> Dimensions {
        self.opened.dimensions
    }

    /// Memory for one blob, and the plan of all work on it.
    pub fn alloc_blob(&mut self) -> Result<Blob, DeviceError> {
        let opened = &*self.opened;
        let (device, sizes) = (&*opened.device, &opened.sizes);
        let storage = BufferUsages::STORAGE;
        let read = storage | BufferUsages::COPY_SRC;
        let data = device.buffer("data of a blob", sizes.data, storage | BufferUsages::COPY_DST)?;
        let coefficients = device.buffer("coefficients", sizes.scalars, read | BufferUsages::COPY_DST)?;
        let cosets =
            device.buffer("rows of all cosets", COSETS as u64 * sizes.scalars, read | BufferUsages::COPY_DST)?;
        let values = device.buffer("values of a transform", sizes.scalars, storage)?;
        let order = device.buffer("lists of points", sizes.order, storage)?;
        let starts = device.buffer("starts of lists", sizes.starts, storage)?;
        let buckets = device.buffer("buckets", sizes.buckets, storage)?;
        let window_sums = device.buffer("sums of windows", sizes.window_sums, storage)?;
        let piece_sums = device.buffer("sums of pieces", sizes.piece_sums, storage)?;
        let nodes = device.buffer("nodes of trees", sizes.nodes, storage)?;
        let points = device.buffer("points of slices", sizes.points, storage)?;
        let digests = device.buffer("digests", sizes.digests, storage)?;
        let slices = device.buffer("slices", sizes.slices, read)?;

        let mut commit = Planner::new(device);
        let buffers = CommitBuffers {
            powers: &opened.powers,
            high_powers: &opened.high_powers,
            lagrange: opened.lagrange.each_ref(),
            factors: &opened.factors,
            pieces: &opened.piece_table,
            coefficients: &coefficients,
            cosets: &cosets,
            order: &order,
            starts: &starts,
            buckets: &buckets,
            window_sums: &window_sums,
            piece_sums: &piece_sums,
            nodes: &nodes,
            points: &points,
        };
        plan_commit(&mut commit, &opened.programs, &buffers, opened.dimensions, sizes.cut, &opened.pieces, sizes.batch);
        Ok(Blob {
            device: device.number,
            dimensions: opened.dimensions,
            extend: opened.plan_extend(&data, &cosets, &values, &coefficients)?,
            commit: commit.finish()?,
            hash: opened.plan_hash(&cosets, &digests)?,
            serialise: opened.plan_serialise(&cosets, &points, &digests, &slices)?,
            data,
            coefficients,
            cosets,
            slices,
        })
    }

    /// Packs and erasure-codes: the N coefficients, and R rows of C scalars for each coset. The matrix's 31·N bytes are
    /// `data`, zeros, and `length` at the very end.
    ///
    /// Fails with [`DeviceError::Shape`] when the data is longer than a blob takes, or the blob of another device.
    pub fn extend(&mut self, data: &[u8], length: [u8; BYTES_PER_LENGTH], blob: &mut Blob) -> Result<(), DeviceError> {
        self.check(blob)?;
        let device = &self.opened.device;
        let maximum = self.opened.dimensions.max_data_bytes();
        expect_at_most("bytes of data", maximum as u64, data.len() as u64)?;
        let (words, rest) = data.split_at(data.len() / 4 * 4);
        upload(device, &blob.data, words)?;
        let mut zeros = words.len() as u64;
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            device.write(&blob.data, zeros, &word)?;
            zeros += 4;
        }
        // Both are multiples of 4: N is one, and the length has 4 bytes.
        let end = maximum as u64;
        device.write(&blob.data, end, &length)?;
        let buffer = &blob.data;
        blob.extend.run(device, |encoder| encoder.clear_buffer(buffer, zeros, Some(end - zeros)))
    }

    /// Commits: erasure and high commitment, and commitment and quotient of every node of the three trees.
    pub fn commit(&mut self, blob: &mut Blob) -> Result<(), DeviceError> {
        self.check(blob)?;
        blob.commit.run(&self.opened.device, |_| ())
    }

    /// Hashes the rows: row roots and the trees above them.
    pub fn hash(&mut self, blob: &mut Blob) -> Result<(), DeviceError> {
        self.check(blob)?;
        blob.hash.run(&self.opened.device, |_| ())
    }

    /// Serialises all slices into `slices`, one behind the other, and returns the roots.
    ///
    /// Fails with [`DeviceError::Shape`] unless `slices` has the length of all slices.
    pub fn slices(&mut self, blob: &mut Blob, slices: &mut [u8]) -> Result<BlobRoots, DeviceError> {
        self.check(blob)?;
        let dimensions = self.opened.dimensions;
        expect_same("bytes of all slices", dimensions.all_slices_bytes() as u64, slices.len() as u64)?;
        blob.serialise.run(&self.opened.device, |_| ())?;
        self.read(&blob.slices, 0, slices)?;
        Ok(roots(dimensions, slices))
    }

    /// Returns when all work that was begun is done.
    pub fn wait(&mut self) -> Result<(), DeviceError> {
        let last = self.opened.device.submit(|_| ())?;
        self.opened.device.wait(&last)
    }

    /// The N coefficients after `extend`, the constant one first: 32 bytes each, little-endian, below the group order.
    pub fn read_coefficients(&mut self, blob: &Blob) -> Result<Vec<u8>, DeviceError> {
        self.check(blob)?;
        let mut bytes = vec![0; self.opened.sizes.scalars as usize];
        self.read(&blob.coefficients, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The scalars of a coset after `extend`, R rows of C: 32 bytes each, little-endian, below the group order.
    ///
    /// Fails with [`DeviceError::Shape`] when `coset` is not below 3.
    pub fn read_coset(&mut self, blob: &Blob, coset: usize) -> Result<Vec<u8>, DeviceError> {
        self.check(blob)?;
        if coset >= COSETS {
            return Err(shape("coset", COSETS as u64, coset as u64));
        }
        let bytes = self.opened.sizes.scalars;
        let mut scalars = vec![0; bytes as usize];
        self.read(&blob.cosets, coset as u64 * bytes, &mut scalars)?;
        Ok(scalars)
    }

    fn check(&self, blob: &Blob) -> Result<(), DeviceError> {
        expect_same("the blob's device", self.opened.device.number, blob.device)?;
        let [expected, got] = [self.opened.dimensions, blob.dimensions].map(|dimensions| dimensions.lg_rows().into());
        expect_same("log2 of the blob's rows", expected, got)
    }

    /// Copies bytes of a buffer from `offset` on into `bytes`; both are multiples of 4.
    fn read(&self, buffer: &Buffer, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let device = &self.opened.device;
        let mut before = None;
        let mut at = offset;
        for (slot, part) in self.read_back.iter().cycle().zip(bytes.chunks_mut(self.opened.sizes.copy as usize)) {
            let length = part.len() as u64;
            let submission = device.submit(|encoder| encoder.copy_buffer_to_buffer(buffer, at, slot, 0, length))?;
            let reading = device.start_reading(slot, length, submission)?;
            if let Some((reading, part)) = before.replace((reading, part)) {
                finish(device, reading, part)?;
            }
            at += length;
        }
        before.map_or(Ok(()), |(reading, part)| finish(device, reading, part))
    }
}

fn finish(device: &Device, reading: crate::device::Reading, part: &mut [u8]) -> Result<(), DeviceError> {
    device.finish_reading(reading, |bytes| part.copy_from_slice(bytes))
}

/// Queues bytes, a multiple of 4, for the front of a buffer: a part in each submission, and at most two parts waiting.
fn upload(device: &Device, buffer: &Buffer, bytes: &[u8]) -> Result<(), DeviceError> {
    let mut before = None;
    let mut offset = 0;
    for part in bytes.chunks(BYTES_PER_COPY as usize) {
        device.write(buffer, offset, part)?;
        let submission = device.submit(|_| ())?;
        if let Some(earlier) = before.replace(submission) {
            device.wait(&earlier)?;
        }
        offset += part.len() as u64;
    }
    Ok(())
}

/// The roots, as they stand in the first slice.
fn roots(dimensions: Dimensions, slices: &[u8]) -> BlobRoots {
    let commitment_at = 16;
    let mut commitment: [u8; BYTES_PER_POINT] =
        slices[commitment_at..commitment_at + BYTES_PER_POINT].try_into().expect("64 bytes");
    commitment[BYTES_PER_POINT - 1] &= !POINT_FLAGS;
    let depth = dimensions.lg_rows() as usize;
    let roots_at = dimensions.row_offset() + dimensions.row_bytes() + 8 + (2 * depth + 1) * BYTES_PER_POINT;
    let coset_roots: [[u8; BYTES_PER_DIGEST]; COSETS] = std::array::from_fn(|coset| {
        let at = roots_at + coset * BYTES_PER_DIGEST;
        slices[at..at + BYTES_PER_DIGEST].try_into().expect("32 bytes")
    });
    let [first, second, third] = coset_roots.map(H256);
    BlobRoots { commitment, coset_roots, storage_root: parent(&parent(&first, &second), &third).0 }
}

impl Opened {
    /// Converts the points and fills the tables.
    fn prepare(&self) -> Result<(), DeviceError> {
        let (dimensions, sizes, programs) = (self.dimensions, &self.sizes, &self.programs);
        let mut planner = Planner::new(&self.device);
        let scalars = dimensions.scalars() as u32;
        for points in [&self.powers, &self.high_powers].into_iter().chain(&self.lagrange) {
            planner.threads(&programs.convert, &[points], &[scalars], scalars.into());
            planner.submit();
        }
        let count = (2 << sizes.lg_half) + HALVINGS;
        let parameters = [count, sizes.lg_half, self.lg_order()];
        planner.threads(&programs.make_roots, &[&self.roots], &parameters, count.into());
        let count = (2 * COSETS * dimensions.rows() + dimensions.rows() / 2) as u32;
        let parameters = [count, sizes.lg_half, dimensions.lg_rows(), dimensions.lg_columns()];
        planner.threads(&programs.make_factors, &[&self.roots, &self.factors], &parameters, count.into());
        planner.finish()?.run(&self.device, |_| ())
    }

    /// log2 of the order of the table's root: that of the shift of coset 2.
    fn lg_order(&self) -> u32 {
        self.dimensions.lg_scalars() + 2
    }

    fn plan_extend(
        &self,
        data: &Buffer,
        cosets: &Buffer,
        values: &Buffer,
        coefficients: &Buffer,
    ) -> Result<Plan, DeviceError> {
        let (dimensions, programs, lg_half) = (self.dimensions, &self.programs, self.sizes.lg_half);
        let (lg_rows, lg_columns, lg_scalars) =
            (dimensions.lg_rows(), dimensions.lg_columns(), dimensions.lg_scalars());
        let scalars = dimensions.scalars() as u32;
        let threads = u64::from(scalars);
        let mut planner = Planner::new(&self.device);
        planner.threads(&programs.matrix, &[data, cosets, values], &[scalars, lg_rows, lg_columns], threads);
        self.plan_transform(&mut planner, values);
        let buffers = [&self.roots, values, coefficients];
        planner.threads(&programs.coefficients, &buffers, &[scalars, lg_half, lg_scalars], threads);
        planner.submit();
        for coset in 1..COSETS as u32 {
            let parameters = [scalars, lg_half, lg_scalars, COSETS as u32 - 1 - coset];
            planner.threads(&programs.scatter, &[&self.roots, coefficients, values], &parameters, threads);
            self.plan_transform(&mut planner, values);
            let parameters = [scalars, lg_rows, lg_columns, coset * scalars];
            planner.threads(&programs.rows, &[values, cosets], &parameters, threads);
            planner.submit();
        }
        planner.finish()
    }

    /// N values in bit-reversed order to their transform in natural order.
    fn plan_transform<'a>(&'a self, planner: &mut Planner<'a>, values: &'a Buffer) {
        let butterflies = self.dimensions.scalars() as u32 / 2;
        for lg_distance in 0..self.dimensions.lg_scalars() {
            let parameters = [butterflies, lg_distance, self.lg_order(), self.sizes.lg_half];
            planner.threads(&self.programs.butterflies, &[&self.roots, values], &parameters, butterflies.into());
        }
    }

    fn plan_hash(&self, cosets: &Buffer, digests: &Buffer) -> Result<Plan, DeviceError> {
        let programs = &self.programs;
        let mut planner = Planner::new(&self.device);
        let all = self::digests(self.dimensions) as u32;
        let mut count = all / 2;
        let mut first = 0;
        planner.threads(&programs.sectors, &[cosets, digests], &[count], count.into());
        while count > COSETS as u32 {
            let first_child = first;
            first += count;
            count /= 2;
            planner.threads(&programs.parents, &[digests], &[count, first_child, first], count.into());
        }
        planner.finish()
    }

    fn plan_serialise(
        &self,
        cosets: &Buffer,
        points: &Buffer,
        digests: &Buffer,
        slices: &Buffer,
    ) -> Result<Plan, DeviceError> {
        let dimensions = self.dimensions;
        let words = u32::try_from(self.sizes.slices / 4).expect("a binding has less than 2^32 words");
        let parameters = [
            words,
            (dimensions.slice_bytes() / 4) as u32,
            dimensions.lg_rows(),
            dimensions.lg_columns(),
            self::digests(dimensions) as u32,
            dimensions.lg_columns() - LG_SCALARS_PER_SECTOR,
        ];
        let mut planner = Planner::new(&self.device);
        planner.threads(&self.programs.slices, &[cosets, points, digests, slices], &parameters, words.into());
        planner.finish()
    }
}

#[cfg(test)]
mod tests {
    use ark_bn254::Fr;
    use ark_ff::{BigInt, One, PrimeField, Zero};

    use super::*;
    use crate::support::blob::{Extended, Points, scalar_bytes, slices};
    use crate::support::{noise, there_is_a_device};

    /// Scalars that no data gives: coefficients and rows are put in their place, each by itself. Dispatches have two dimensions.
    #[test]
    fn commitments_to_scalars_at_the_edges_equal_the_twin() {
        if !there_is_a_device() {
            return;
        }
        let dimensions = Dimensions::new(3, 4).expect("a small matrix");
        let points = Points::random(dimensions);
        // So few workgroups in a dimension that dispatches need both, as the full size does.
        let mut opened = Device::open(0).expect("a listed device opens");
        let limits = &mut Arc::get_mut(&mut opened).expect("one owner").limits;
        limits.max_compute_workgroups_per_dimension = 7;
        let opened = BlobDevice::open_on(opened, &points.bases(), None, BlobTuning::default());
        let mut device = opened.expect("memory for the points");
        let mut blob = device.alloc_blob().expect("memory for a blob");
        let random = |seed: usize| Fr::from_le_bytes_mod_order(&noise(seed as u64, 32));
        // All digits of 0x80 and around, which signs and carries turn on.
        let digits = |digit: u64| Fr::from_bigint(BigInt([digit * 0x0101_0101_0101_0101; 4])).unwrap_or(-Fr::one());
        let edges = [
            Fr::zero(),
            Fr::one(),
            -Fr::one(),
            -Fr::from(2u64),
            Fr::from(1u64 << 63),
            digits(0x0f),
            digits(0x08),
            digits(0x07),
            digits(0x10),
            random(1),
            -random(1),
            digits(0x1f),
            digits(0x2f),
        ];
        type Rule = Box<dyn Fn(usize) -> Fr>;
        let lists: [(&str, Rule); 6] = [
            ("zeros", Box::new(|_| Fr::zero())),
            ("ones", Box::new(|_| Fr::one())),
            ("minus ones", Box::new(|_| -Fr::one())),
            ("equal", Box::new(move |_| random(7))),
            ("edges", Box::new(move |number| edges[number % edges.len()])),
            ("a single one", Box::new(|number| Fr::from(u64::from(number == 77)))),
        ];
        for (what, scalar) in lists {
            let count = dimensions.scalars();
            let list = |first: usize| (first..first + count).map(&scalar).collect::<Vec<Fr>>();
            let extended = Extended { coefficients: list(0), cosets: [list(0), list(count), list(2 * count)] };
            let wgpu_device = Arc::clone(&device.opened.device);
            wgpu_device.write(&blob.coefficients, 0, &scalar_bytes(&extended.coefficients)).expect("writes");
            wgpu_device.write(&blob.cosets, 0, &scalar_bytes(&extended.cosets.concat())).expect("writes");
            let mut bytes = vec![0; dimensions.all_slices_bytes()];
            device.commit(&mut blob).expect("commits");
            device.hash(&mut blob).expect("hashes");
            let roots = device.slices(&mut blob, &mut bytes).expect("serialises");
            assert!((bytes, roots) == slices(&points, &extended), "{what}");
        }
    }

    #[test]
    fn a_budget_bounds_the_batch_or_is_refused() {
        if !there_is_a_device() {
            return;
        }
        let dimensions = Dimensions::new(6, 5).expect("the test size");
        let device = Device::open(0).expect("a listed device opens");
        let cut = Cut::new(dimensions, None, None);
        let sizes = |memory| Sizes::new(&device, dimensions, cut, 1000, memory, BlobTuning::default());
        let free = sizes(None).expect("no budget");
        let used = |sizes: &Sizes| {
            sizes.per_device() + LANES * (sizes.per_blob() + sizes.order + sizes.starts + sizes.buckets)
        };
        let budget = used(&free) / 2;
        let bounded = sizes(Some(budget)).expect("half of it");
        assert!(bounded.batch < free.batch && used(&bounded) <= budget);
        let refused = sizes(Some(1 << 20)).err().expect("a megabyte is too little");
        assert!(matches!(refused, DeviceError::OutOfMemory { available: 0x10_0000, .. }), "{refused}");
    }
}
