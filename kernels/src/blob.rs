//! Encoding blobs on one device, stage by stage: shapes are checked here, memory is had once.
//!
//! A blob stays in device memory from its bytes to its slices. Every call returns when the device is done with it. Two lanes of
//! a card ([`Device::lane`]) used from two threads overlap: one copies while the other computes or is busy on the host.

use std::sync::Arc;
use std::thread;

use zgpu_core::blob::{
    BYTES_PER_DIGEST, BYTES_PER_LENGTH, BYTES_PER_POINT, BYTES_PER_RAW_SCALAR, BYTES_PER_SCALAR, BlobRoots, COSETS,
    Dimensions, ProverBases,
};
use zgpu_core::device::{DeviceError, DeviceInfo};

use crate::commit::{self, Tables, Work};
use crate::launch::blob::{self as launch, BYTES_PER_ROOTS, Digests, SliceParts, Transform, Twiddles};
use crate::runtime::Runtime;

/// Blobs that tables must leave room for: one for each lane of a busy device.
const BLOBS_BESIDE_TABLES: u64 = 2;
/// Part of the free memory that is left to the driver and to others when no bound is given, as a divisor.
const MARGIN_SHARE: u64 = 16;
/// Bytes of a copy between buffers of the host that one thread makes at least.
const BYTES_PER_COPY: usize = 4 << 20;
/// Threads of such a copy: they wait for memory, and a few fill its channels.
const THREADS_PER_COPY: usize = 4;
/// Bytes of a vector, the unit in which kernels address memory.
const BYTES_PER_VECTOR: u64 = 16;

/// A device that encodes blobs of one set of parameters, or one lane of it.
pub struct Device<R: Runtime> {
    runtime: R,
    shared: Arc<Shared<R>>,
}

/// What lanes of a device share.
struct Shared<R: Runtime> {
    dimensions: Dimensions,
    twiddles: Twiddles<R::Memory>,
    tables: Tables<R>,
}

/// One blob on its way, in device memory.
pub struct Blob<R: Runtime> {
    /// What the device shares that made it.
    shared: Arc<Shared<R>>,
    /// The bytes on their way to the device, then the slices on their way back.
    staging: R::Staging,
    data: R::Memory,
    /// Coefficients, and R rows of C scalars for each coset: Montgomery, 32 bytes each.
    coefficients: R::Memory,
    cosets: [R::Memory; COSETS],
    scratch: R::Memory,
    work: Work<R>,
    digests: Digests<R::Memory>,
    slices: R::Memory,
    roots: R::Memory,
}

impl<R: Runtime> Device<R> {
    /// Opens device `index` with the points of `bases`. Tables and two blobs take at most `memory` bytes, or what is free.
    /// Errors: `Shape` when the points do not fit the dimensions, `OutOfMemory`.
    pub fn open(index: usize, bases: &ProverBases<'_>, memory: Option<u64>) -> Result<Self, DeviceError> {
        let dimensions = bases.dimensions;
        let bytes = (dimensions.scalars() * BYTES_PER_POINT) as u64;
        exactly("bytes of powers", bytes, bases.powers.len() as u64)?;
        exactly("bytes of high powers", bytes, bases.high_powers.len() as u64)?;
        for lagrange in bases.lagrange {
            exactly("bytes of Lagrange points", bytes, lagrange.len() as u64)?;
        }
        let runtime = R::open(index)?;
        let twiddles = Twiddles::new(&runtime, dimensions)?;
        let free = runtime.free_bytes()?;
        let available = memory.unwrap_or(free - free / MARGIN_SHARE).min(free);
        let wanted = BLOBS_BESIDE_TABLES * blob_bytes::<R>(dimensions);
        let budget = available.checked_sub(wanted).ok_or_else(|| DeviceError::OutOfMemory {
            device: runtime.info().name.clone(),
            what: "blobs",
            wanted,
            available,
        })?;
        let tables = Tables::new(&runtime, bases, budget)?;
        Ok(Device { runtime, shared: Arc::new(Shared { dimensions, twiddles, tables }) })
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        self.runtime.info()
    }

    /// Size of the matrix.
    pub fn dimensions(&self) -> Dimensions {
        self.shared.dimensions
    }

    /// Another queue of work on the same device, with the same tables.
    pub fn lane(&self) -> Result<Self, DeviceError> {
        Ok(Device { runtime: self.runtime.fork()?, shared: Arc::clone(&self.shared) })
    }

    /// Memory for one blob.
    pub fn alloc_blob(&mut self) -> Result<Blob<R>, DeviceError> {
        let dimensions = self.dimensions();
        let sizes = Sizes::new(dimensions);
        let runtime = &self.runtime;
        let elements = |what| runtime.alloc(what, sizes.elements);
        Ok(Blob {
            shared: Arc::clone(&self.shared),
            staging: runtime.alloc_staging("slices of a blob", sizes.slices.max(sizes.data))?,
            data: runtime.alloc("data of a blob", sizes.data)?,
            coefficients: elements("coefficients")?,
            cosets: [elements("rows of coset 0")?, elements("rows of coset 1")?, elements("rows of coset 2")?],
            scratch: elements("a transform on its way")?,
            work: Work::new(runtime, &self.shared.tables)?,
            digests: Digests::new(runtime, dimensions)?,
            slices: runtime.alloc("slices of a blob", sizes.slices)?,
            roots: runtime.alloc("roots of a blob", BYTES_PER_ROOTS as u64)?,
        })
    }

    /// Packs and erasure-codes: the matrix's 31 N bytes are `data`, zeros, and `length` at the very end.
    /// Errors: `Shape` when the data is larger than [`Dimensions::max_data_bytes`], or the blob another device's.
    pub fn extend(
        &mut self,
        data: &[u8],
        length: [u8; BYTES_PER_LENGTH],
        blob: &mut Blob<R>,
    ) -> Result<(), DeviceError> {
        self.owns(blob)?;
        let dimensions = self.dimensions();
        let most = dimensions.max_data_bytes();
        if data.len() > most {
            return Err(DeviceError::Shape {
                what: "bytes of data, at most",
                expected: most as u64,
                got: data.len() as u64,
            });
        }
        let bytes = data.len() as u64;
        copy(data, &mut blob.staging.as_mut()[..data.len()]);
        self.runtime.upload(&mut blob.data, &blob.staging, bytes)?;
        let queued = self.queue_extension(bytes as u32, length, blob);
        self.finish(queued)
    }

    fn queue_extension(
        &self,
        bytes: u32,
        length: [u8; BYTES_PER_LENGTH],
        blob: &mut Blob<R>,
    ) -> Result<(), DeviceError> {
        let (runtime, twiddles, dimensions) = (&self.runtime, &self.shared.twiddles, self.shared.dimensions);
        let Blob { data, coefficients, cosets: [zero, one, two], scratch, .. } = blob;
        launch::unpack(runtime, data, bytes, length, dimensions.scalars() as u32, zero)?;
        launch::ntt(runtime, twiddles, dimensions, Transform::Coefficients, zero, coefficients, scratch)?;
        for (coset, values) in [(1, one), (2, two)] {
            launch::ntt(runtime, twiddles, dimensions, Transform::Values { coset }, coefficients, values, scratch)?;
        }
        Ok(())
    }

    /// Commits: erasure and high commitment, and commitment and quotient of every node of the three trees.
    /// Errors: `Shape` when the blob is another device's.
    pub fn commit(&mut self, blob: &mut Blob<R>) -> Result<(), DeviceError> {
        self.owns(blob)?;
        let Blob { coefficients, cosets, work, .. } = blob;
        let queued = commit::commit(&self.runtime, &self.shared.tables, coefficients, cosets, work);
        self.finish(queued)
    }

    /// Hashes the rows: row roots, the trees above them, the storage root. Errors: `Shape` when the blob is another device's.
    pub fn hash(&mut self, blob: &mut Blob<R>) -> Result<(), DeviceError> {
        self.owns(blob)?;
        let queued = launch::hash(&self.runtime, &blob.cosets, &mut blob.digests);
        self.finish(queued)
    }

    /// Serialises all slices into `slices`, one behind the other, and returns the roots.
    /// Errors: `Shape` when `slices` has not [`Dimensions::all_slices_bytes`], or the blob is another device's.
    pub fn slices(&mut self, blob: &mut Blob<R>, slices: &mut [u8]) -> Result<BlobRoots, DeviceError> {
        self.owns(blob)?;
        let bytes = self.dimensions().all_slices_bytes() as u64;
        exactly("bytes of slices", bytes, slices.len() as u64)?;
        let Blob { cosets, work, digests, slices: device_slices, roots, .. } = blob;
        let parts = SliceParts { cosets, nodes: work.nodes(), totals: work.totals(), digests };
        let queued = launch::slices(&self.runtime, &parts, device_slices, roots);
        self.finish(queued)?;
        let mut bytes_of_roots = [0; BYTES_PER_ROOTS];
        self.runtime.read(&blob.roots, 0, &mut bytes_of_roots)?;
        self.runtime.download(&blob.slices, &mut blob.staging, bytes)?;
        copy(&blob.staging.as_ref()[..slices.len()], slices);
        Ok(decode_roots(&bytes_of_roots))
    }

    /// Returns when all work that was begun is done.
    pub fn wait(&mut self) -> Result<(), DeviceError> {
        self.runtime.wait()
    }

    /// The N coefficients after `extend`, the constant one first: 32 bytes each, little-endian, below the group order.
    /// Errors: `Shape` when the blob is another device's.
    pub fn read_coefficients(&mut self, blob: &Blob<R>) -> Result<Vec<u8>, DeviceError> {
        self.owns(blob)?;
        self.read_elements(&blob.coefficients)
    }

    /// The scalars of a coset after `extend`, R rows of C: 32 bytes each, little-endian, below the group order.
    /// Errors: `Shape` when `coset` is not below 3, or the blob is another device's.
    pub fn read_coset(&mut self, blob: &Blob<R>, coset: usize) -> Result<Vec<u8>, DeviceError> {
        self.owns(blob)?;
        let memory = blob.cosets.get(coset).ok_or(DeviceError::Shape {
            what: "coset, below",
            expected: COSETS as u64,
            got: coset as u64,
        })?;
        self.read_elements(memory)
    }

    /// N elements, out of Montgomery form.
    fn read_elements(&mut self, memory: &R::Memory) -> Result<Vec<u8>, DeviceError> {
        let bytes = self.dimensions().scalars() * BYTES_PER_SCALAR;
        let mut canonical = self.runtime.alloc("scalars to read", bytes as u64)?;
        let queued = launch::canonical(&self.runtime, self.dimensions().scalars() as u32, memory, &mut canonical);
        self.finish(queued)?;
        let mut scalars = vec![0; bytes];
        self.runtime.read(&canonical, 0, &mut scalars)?;
        Ok(scalars)
    }

    /// Waits for what was queued before it is known whether all was: memory may go as soon as a call has returned.
    fn finish(&self, queued: Result<(), DeviceError>) -> Result<(), DeviceError> {
        let waited = self.runtime.wait();
        queued.and(waited)
    }

    fn owns(&self, blob: &Blob<R>) -> Result<(), DeviceError> {
        let same = Arc::ptr_eq(&self.shared, &blob.shared);
        exactly("blobs of this device", 1, same.into())
    }
}

/// Bytes of the parts of a blob whose size follows from the dimensions alone.
struct Sizes {
    data: u64,
    elements: u64,
    slices: u64,
}

impl Sizes {
    fn new(dimensions: Dimensions) -> Self {
        let data = (dimensions.scalars() * BYTES_PER_RAW_SCALAR) as u64;
        Sizes {
            data: data.next_multiple_of(BYTES_PER_VECTOR),
            elements: (dimensions.scalars() * BYTES_PER_SCALAR) as u64,
            slices: dimensions.all_slices_bytes() as u64,
        }
    }
}

/// Device memory of a blob, that of the commitments apart.
fn blob_bytes<R: Runtime>(dimensions: Dimensions) -> u64 {
    let Sizes { data, elements, slices } = Sizes::new(dimensions);
    data + (2 + COSETS as u64) * elements + slices + Digests::<R::Memory>::bytes(dimensions) + BYTES_PER_ROOTS as u64
}

/// The roots as the kernel wrote them.
fn decode_roots(bytes: &[u8; BYTES_PER_ROOTS]) -> BlobRoots {
    let (commitment, digests) = bytes.split_first_chunk().expect("the commitment comes first");
    let (digests, _) = digests.as_chunks::<BYTES_PER_DIGEST>();
    BlobRoots {
        commitment: *commitment,
        coset_roots: std::array::from_fn(|coset| digests[coset]),
        storage_root: digests[COSETS],
    }
}

/// Copies between buffers of the same length, large ones with a few threads.
fn copy(from: &[u8], to: &mut [u8]) {
    let share = from.len().div_ceil(THREADS_PER_COPY).max(BYTES_PER_COPY);
    if from.len() <= share {
        return to.copy_from_slice(from);
    }
    thread::scope(|scope| {
        for (from, to) in from.chunks(share).zip(to.chunks_mut(share)) {
            scope.spawn(|| to.copy_from_slice(from));
        }
    });
}

fn exactly(what: &'static str, expected: u64, got: u64) -> Result<(), DeviceError> {
    if got != expected { Err(DeviceError::Shape { what, expected, got }) } else { Ok(()) }
}
