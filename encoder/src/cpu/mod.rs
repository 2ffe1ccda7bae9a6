//! The encoder on the host's cores: SIMD across independent additions and products, rayon across the cores.

mod kernels;
mod lanes;
mod msm;
mod ntt;
mod quotients;
mod simd;
mod tables;

use std::sync::{Arc, Mutex, PoisonError};

use ark_bn254::{G1Affine, G1Projective};
use ark_ec::CurveGroup;
use rayon::prelude::*;
use zgpu_core::{
    blob::{BYTES_PER_LENGTH, BYTES_PER_POINT, BYTES_PER_RAW_SCALAR, BYTES_PER_SCALAR, BlobRoots, COSETS, Dimensions},
    device::{BackendKind, DeviceError, DeviceInfo, UnusableDevice},
    digest::H256,
    host::{available_memory, processor_name},
    tree::{sector_hash, unbalanced_levels, unbalanced_root},
    units::BYTES_PER_SECTOR,
};

use crate::{
    commit::siblings,
    extend::reversed,
    merkle::storage_root,
    params::ProverParams,
    points::{plain_point_bytes, point_bytes},
    seam::Encoder,
};
use lanes::Words;
use msm::{FixedBases, Plan, Workspace};
use ntt::Extension;
use quotients::{Quotients, first_node, nodes_per_coset};
pub use simd::Level;
use simd::Simd;

/// The host's cores as a device.
pub struct CpuEncoder {
    info: DeviceInfo,
    dimensions: Dimensions,
    simd: Simd,
    shared: Arc<Shared>,
}

/// What all lanes of a device use.
struct Shared {
    bases: Vec<FixedBases>,
    plan: Plan,
    quotients: Quotients,
    extension: Extension,
}

/// A blob in host memory.
pub struct CpuBlob {
    /// Integers below the group order: N coefficients, then the rows of the three cosets, R of C each.
    scalars: Vec<Words>,
    /// Per coset, depth 1..=lg R and node: commitment and quotient, as in slices.
    nodes: Vec<[[u8; BYTES_PER_POINT]; 2]>,
    erasure: G1Affine,
    high: G1Affine,
    /// Per coset: the row roots, then each level above, the coset root last.
    trees: [Vec<Vec<H256>>; COSETS],
    workspaces: Workspaces,
}

/// Memory for tasks, one for each thread of the pool.
struct Workspaces(Vec<Mutex<Workspace>>);

impl Workspaces {
    fn new() -> Self {
        Workspaces((0..rayon::current_num_threads()).map(|_| Mutex::default()).collect())
    }

    /// Runs `work`, which must not wait for other work of the pool, with this thread's memory.
    fn with<T>(&self, work: impl FnOnce(&mut Workspace) -> T) -> T {
        let index = rayon::current_thread_index().unwrap_or(0) % self.0.len();
        work(&mut self.0[index].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The levels that this processor can run, the fastest first, and why it cannot run the others.
pub(crate) fn list() -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for level in Level::ALL {
        match level.missing() {
            None => usable.push(describe(level, usable.len())),
            Some(reason) => unusable.push(UnusableDevice {
                backend: BackendKind::Cpu,
                name: level.to_string(),
                reason: reason.into(),
                remedy: "use a level below it, or a machine that has it".into(),
            }),
        }
    }
    (usable, unusable)
}

fn describe(level: Level, index: usize) -> DeviceInfo {
    DeviceInfo {
        backend: BackendKind::Cpu,
        index,
        name: format!("{} ({level})", processor_name()),
        driver: "instructions detected at run time".into(),
        level: level.to_string(),
        memory_bytes: available_memory(),
        compute_units: rayon::current_num_threads() as u32,
        software: false,
    }
}

impl CpuEncoder {
    /// The host's cores with the instruction set that has this `index` among those they can run, the fastest first.
    /// Tables of multiples of the points take at most `memory` bytes, where that is enough for the points themselves.
    pub fn open(index: usize, params: &Arc<ProverParams>, memory: Option<u64>) -> Result<Self, DeviceError> {
        let (usable, unusable) = list();
        let info = usable.into_iter().nth(index).ok_or(DeviceError::none_usable(BackendKind::Cpu, unusable))?;
        let level = Level::ALL.into_iter().find(|level| level.to_string() == info.level);
        let simd = Simd::new(level.expect("a level that was listed")).expect("a level that was listed as usable");
        let bases = params.bases();
        let (bases, sums) = tables::build(simd, &bases, memory.unwrap_or(tables::DEFAULT_BYTES));
        let shared = Shared {
            plan: Plan::new(&bases, sums),
            bases,
            quotients: Quotients::new(params.dimensions()),
            extension: Extension::new(simd, params.dimensions()),
        };
        Ok(CpuEncoder { info, dimensions: params.dimensions(), simd, shared: Arc::new(shared) })
    }
}

impl CpuBlob {
    fn rows(&self, dimensions: Dimensions) -> &[Words] {
        &self.scalars[dimensions.scalars()..]
    }

    /// Serialises slice `index`.
    fn write(&self, dimensions: Dimensions, index: usize, slice: &mut [u8]) {
        let (rows, lg_rows) = (dimensions.rows(), dimensions.lg_rows());
        let (coset, row) = (index / rows, index % rows);
        let mut out = Out(slice);
        out.number(index);
        out.number(index);
        out.bytes(&point_bytes(&self.erasure));
        out.number(row);
        out.number(dimensions.columns());
        write_row(self.row(dimensions, index), out.take(dimensions.row_bytes()));
        out.number(lg_rows as usize);
        for (sibling, depth) in siblings(dimensions, index).zip(1..) {
            out.bytes(self.nodes[first_node(lg_rows, coset, depth) + sibling].as_flattened());
        }
        out.bytes(&point_bytes(&self.high));
        self.trees.iter().for_each(|tree| out.bytes(&tree[lg_rows as usize][0].0));
        out.number(lg_rows as usize);
        for (height, level) in self.trees[coset].iter().enumerate().take(lg_rows as usize) {
            out.bytes(&level[row >> height ^ 1].0);
        }
        out.number(index);
        out.bytes(&self.trees[coset][0][row].0);
    }

    fn row(&self, dimensions: Dimensions, index: usize) -> &[Words] {
        &self.rows(dimensions)[index * dimensions.columns()..][..dimensions.columns()]
    }
}

/// What is left to write of a slice.
struct Out<'a>(&'a mut [u8]);

impl<'a> Out<'a> {
    fn take(&mut self, count: usize) -> &'a mut [u8] {
        self.0.split_off_mut(..count).expect("a slice has room for its parts")
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    fn number(&mut self, number: usize) {
        self.bytes(&(number as u64).to_le_bytes());
    }
}

/// Scalars as 32 little-endian bytes each.
fn write_row(row: &[Words], bytes: &mut [u8]) {
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(row.as_flattened()) {
        *bytes = word.to_le_bytes();
    }
}

/// Root of a row of a whole number of sectors.
fn row_root(row: &[Words]) -> H256 {
    let sectors = row.chunks_exact(BYTES_PER_SECTOR / BYTES_PER_SCALAR).map(|scalars| {
        let mut sector = [0; BYTES_PER_SECTOR];
        write_row(scalars, &mut sector);
        sector_hash(&sector)
    });
    unbalanced_root(&sectors.collect::<Vec<_>>()).expect("a row has scalars")
}

/// 31 bytes of data in each scalar, zeros behind them, and the length in the last 4 of all these bytes.
fn pack(data: &[u8], length: [u8; BYTES_PER_LENGTH], scalars: &mut [Words]) {
    const SCALARS_PER_CHUNK: usize = 4096;
    let words = |bytes: &[u8; BYTES_PER_SCALAR]| {
        let (words, _) = bytes.as_chunks::<8>();
        [0, 1, 2, 3].map(|i| u64::from_le_bytes(words[i]))
    };
    scalars.par_chunks_mut(SCALARS_PER_CHUNK).enumerate().for_each(|(chunk, scalars)| {
        let data = data.get(chunk * SCALARS_PER_CHUNK * BYTES_PER_RAW_SCALAR..).unwrap_or_default();
        let mut pieces = data.chunks(BYTES_PER_RAW_SCALAR);
        for scalar in scalars {
            let mut bytes = [0; BYTES_PER_SCALAR];
            let piece = pieces.next().unwrap_or_default();
            bytes[..piece.len()].copy_from_slice(piece);
            *scalar = words(&bytes);
        }
    });
    // The data leaves room for the length: these bytes of the last scalar are zero.
    let mut bytes = [0; BYTES_PER_SCALAR];
    bytes[BYTES_PER_RAW_SCALAR - BYTES_PER_LENGTH..BYTES_PER_RAW_SCALAR].copy_from_slice(&length);
    let last = scalars.last_mut().expect("a matrix has scalars");
    last.iter_mut().zip(words(&bytes)).for_each(|(word, length)| *word |= length);
}

impl Encoder for CpuEncoder {
    type Blob = CpuBlob;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    fn lane(&self) -> Result<Self, DeviceError> {
        Ok(CpuEncoder {
            info: self.info.clone(),
            dimensions: self.dimensions,
            simd: self.simd,
            shared: Arc::clone(&self.shared),
        })
    }

    fn preferred_lanes(&self) -> usize {
        1
    }

    fn alloc_blob(&mut self) -> Result<CpuBlob, DeviceError> {
        let dimensions = self.dimensions;
        let nodes = COSETS * nodes_per_coset(dimensions.lg_rows());
        Ok(CpuBlob {
            scalars: vec![[0; 4]; (1 + COSETS) * dimensions.scalars()],
            nodes: vec![[[0; BYTES_PER_POINT]; 2]; nodes],
            erasure: G1Affine::identity(),
            high: G1Affine::identity(),
            trees: Default::default(),
            workspaces: Workspaces::new(),
        })
    }

    fn extend(&mut self, data: &[u8], length: [u8; BYTES_PER_LENGTH], blob: &mut CpuBlob) -> Result<(), DeviceError> {
        let maximum = self.dimensions.max_data_bytes();
        if data.len() > maximum {
            return Err(DeviceError::Shape {
                what: "bytes of data, at most",
                expected: maximum as u64,
                got: data.len() as u64,
            });
        }
        let matrix = &mut blob.scalars[self.dimensions.scalars()..][..self.dimensions.scalars()];
        pack(data, length, matrix);
        self.shared.extension.run(self.simd, &mut blob.scalars);
        Ok(())
    }

    fn commit(&mut self, blob: &mut CpuBlob) -> Result<(), DeviceError> {
        let Shared { bases, plan, quotients, .. } = &*self.shared;
        let lg_rows = self.dimensions.lg_rows();
        let sums = plan.run(self.simd, bases, &blob.scalars, &blob.workspaces);
        let sums = tables::Sums::new(self.dimensions, &sums);

        // From the depth of the leaves up: blocks from blocks below, parents from children.
        let mut blocks = sums.blocks.to_vec();
        for depth in (1..lg_rows).rev() {
            for block in 0..1 << depth {
                let below = blocks[first_node(lg_rows, 0, depth + 1) + 2 * block];
                blocks[first_node(lg_rows, 0, depth) + block] += below;
            }
        }
        let mut commitments = vec![G1Projective::default(); COSETS * nodes_per_coset(lg_rows)];
        for coset in 0..COSETS {
            let leaves = first_node(lg_rows, coset, lg_rows);
            for node in 0..self.dimensions.rows() {
                commitments[leaves + node] = sums.rows[coset * self.dimensions.rows() + reversed(node, lg_rows)];
            }
            for depth in (1..lg_rows).rev() {
                let below = first_node(lg_rows, coset, depth + 1);
                for node in 0..1 << depth {
                    commitments[first_node(lg_rows, coset, depth) + node] =
                        commitments[below + 2 * node] + commitments[below + 2 * node + 1];
                }
            }
        }
        let erasure = commitments[0] + commitments[1];

        commitments.extend(quotients.run(self.simd, &blocks));
        commitments.extend([erasure, *sums.high]);
        let points = G1Projective::normalize_batch(&commitments);
        let (commitments, others) = points.split_at(blob.nodes.len());
        let (quotients, both) = others.split_at(blob.nodes.len());
        for (node, (commitment, quotient)) in blob.nodes.iter_mut().zip(commitments.iter().zip(quotients)) {
            *node = [point_bytes(commitment), point_bytes(quotient)];
        }
        (blob.erasure, blob.high) = (both[0], both[1]);
        Ok(())
    }

    fn hash(&mut self, blob: &mut CpuBlob) -> Result<(), DeviceError> {
        let cosets = blob.scalars[self.dimensions.scalars()..].par_chunks(self.dimensions.scalars());
        let trees: Vec<Vec<Vec<H256>>> = cosets
            .map(|coset| unbalanced_levels(coset.par_chunks(self.dimensions.columns()).map(row_root).collect()))
            .collect();
        blob.trees.iter_mut().zip(trees).for_each(|(into, tree)| *into = tree);
        Ok(())
    }

    fn slices(&mut self, blob: &mut CpuBlob, slices: &mut [u8]) -> Result<BlobRoots, DeviceError> {
        let expected = self.dimensions.all_slices_bytes();
        if slices.len() != expected {
            return Err(DeviceError::Shape {
                what: "bytes for all slices",
                expected: expected as u64,
                got: slices.len() as u64,
            });
        }
        let blob = &*blob;
        slices
            .par_chunks_exact_mut(self.dimensions.slice_bytes())
            .enumerate()
            .for_each(|(index, slice)| blob.write(self.dimensions, index, slice));
        let coset_roots = blob.trees.each_ref().map(|tree| tree[self.dimensions.lg_rows() as usize][0]);
        Ok(BlobRoots {
            commitment: plain_point_bytes(&blob.erasure),
            coset_roots: coset_roots.map(|root| root.0),
            storage_root: storage_root(&coset_roots).0,
        })
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read_coefficients(&mut self, blob: &CpuBlob) -> Result<Vec<u8>, DeviceError> {
        Ok(bytes(&blob.scalars[..self.dimensions.scalars()]))
    }

    fn read_coset(&mut self, blob: &CpuBlob, coset: usize) -> Result<Vec<u8>, DeviceError> {
        if coset >= COSETS {
            return Err(DeviceError::Shape { what: "coset", expected: COSETS as u64 - 1, got: coset as u64 });
        }
        Ok(bytes(&blob.scalars[(1 + coset) * self.dimensions.scalars()..][..self.dimensions.scalars()]))
    }
}

fn bytes(scalars: &[Words]) -> Vec<u8> {
    let mut bytes = vec![0; scalars.len() * BYTES_PER_SCALAR];
    write_row(scalars, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
