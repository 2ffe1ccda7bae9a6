//! The kernels that extend, hash and serialise blobs. Elements and points in device memory are Montgomery: see
//! `cuda/field/field.cuh`.

use zgpu_core::blob::{BYTES_PER_DIGEST, BYTES_PER_POINT, BYTES_PER_SCALAR, COSETS, Dimensions};
use zgpu_core::device::DeviceError;

use super::{has, holds, launch_each};
use crate::runtime::{Kernel, Memory, Runtime};

/// Scalars of a sector, which is a leaf of the trees.
const SCALARS_PER_SECTOR: usize = 8;
/// log2 of the elements that a block of `ntt_pass` transforms, and so of the largest radix of a pass.
const LG_POINTS_PER_TILE: u32 = 10;
/// Bytes of what names a blob: erasure commitment, coset roots, storage root.
pub(crate) const BYTES_PER_ROOTS: usize = BYTES_PER_POINT + (COSETS + 1) * BYTES_PER_DIGEST;
/// Bytes that `unpack_scalars` reads at once.
const BYTES_PER_WORD: usize = 4;

/// `TwiddleArgs` of `cuda/ntt/ntt.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TwiddleArgs {
    powers: u64,
    lg_order: u32,
    lg_step: u32,
    count: u32,
    unused: u32,
}

/// `UnpackArgs` of `cuda/ntt/ntt.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UnpackArgs {
    data: u64,
    elements: u64,
    data_bytes: u32,
    length: u32,
    count: u32,
    unused: u32,
}

/// `CanonicalArgs` of `cuda/ntt/ntt.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CanonicalArgs {
    elements: u64,
    scalars: u64,
    count: u32,
    unused: u32,
}

/// `PassArgs` of `cuda/ntt/ntt.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PassArgs {
    input: u64,
    output: u64,
    tile_powers: u64,
    low_powers: u64,
    high_powers: u64,
    lg_order: u32,
    lg_low: u32,
    lg_scalars: u32,
    lg_columns: u32,
    lg_unit: u32,
    lg_radix: u32,
    lg_stride: u32,
    lg_size: u32,
    inverse: u32,
    between: u32,
    shift: u32,
    scale: u32,
}

/// `SectorArgs` of `cuda/merkle/merkle.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SectorArgs {
    scalars: u64,
    digests: u64,
    count: u32,
    unused: u32,
}

/// `ParentArgs` of `cuda/merkle/merkle.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ParentArgs {
    left: u64,
    right: u64,
    parents: u64,
    stride: u32,
    count: u32,
}

/// `SliceArgs` of `cuda/slice/slice.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SliceArgs {
    cosets: [u64; COSETS],
    nodes: u64,
    totals: u64,
    digests: u64,
    storage_root: u64,
    slices: u64,
    roots: u64,
    lg_rows: u32,
    lg_columns: u32,
}

/// Powers of w, the root of unity of order 4N, and of the one of order 1024, in device memory.
pub(crate) struct Twiddles<M> {
    lg_order: u32,
    lg_low: u32,
    tile: M,
    low: M,
    high: M,
}

impl<M: Memory> Twiddles<M> {
    /// Builds the tables for a matrix of `dimensions`.
    pub(crate) fn new<R: Runtime<Memory = M>>(runtime: &R, dimensions: Dimensions) -> Result<Self, DeviceError> {
        let lg_order = dimensions.lg_scalars() + 2;
        let lg_low = lg_order / 2;
        let powers = |lg_order, lg_step, lg_count: u32| {
            let count = 1u32 << lg_count;
            let memory = runtime.alloc("powers of a root of unity", count as u64 * BYTES_PER_SCALAR as u64)?;
            let args = TwiddleArgs { powers: memory.address(), lg_order, lg_step, count, unused: 0 };
            // SAFETY: build_twiddles takes TwiddleArgs; thread i < count writes power i, for which there is memory; it is
            // returned after the work is done.
            unsafe { launch_each(runtime, Kernel::BuildTwiddles, count, &args)? };
            runtime.wait()?;
            Ok::<M, DeviceError>(memory)
        };
        Ok(Twiddles {
            lg_order,
            lg_low,
            tile: powers(LG_POINTS_PER_TILE, 0, LG_POINTS_PER_TILE)?,
            low: powers(lg_order, 0, lg_low)?,
            high: powers(lg_order, lg_low, lg_order - lg_low)?,
        })
    }
}

/// Queues the unpacking of a matrix of `count` scalars, whose 31-byte scalars are the first `data_bytes` of `data`, zeros, and
/// `length` at the very end. There is room for the length behind the data.
pub(crate) fn unpack<R: Runtime>(
    runtime: &R,
    data: &R::Memory,
    data_bytes: u32,
    length: [u8; 4],
    count: u32,
    elements: &mut R::Memory,
) -> Result<(), DeviceError> {
    holds("words of data in memory", data, data_bytes.div_ceil(BYTES_PER_WORD as u32), BYTES_PER_WORD)?;
    holds("scalars in memory", elements, count, BYTES_PER_SCALAR)?;
    let args = UnpackArgs {
        data: data.address(),
        elements: elements.address(),
        data_bytes,
        length: u32::from_le_bytes(length),
        count,
        unused: 0,
    };
    // SAFETY: unpack_scalars takes UnpackArgs; it reads whole words up to the one with the last byte of data, and thread
    // i < count writes element i, all inside their memory (checked above); the caller keeps both until its next wait.
    unsafe { launch_each(runtime, Kernel::UnpackScalars, count, &args) }
}

/// Queues the way of `count` elements out of Montgomery form, to 32 bytes each, little-endian.
pub(crate) fn canonical<R: Runtime>(
    runtime: &R,
    count: u32,
    elements: &R::Memory,
    scalars: &mut R::Memory,
) -> Result<(), DeviceError> {
    holds("elements in memory", elements, count, BYTES_PER_SCALAR)?;
    holds("scalars in memory", scalars, count, BYTES_PER_SCALAR)?;
    let args = CanonicalArgs { elements: elements.address(), scalars: scalars.address(), count, unused: 0 };
    // SAFETY: read_elements takes CanonicalArgs; thread i < count reads element i and writes scalar i, inside their memory
    // (checked above); the caller keeps both until its next wait.
    unsafe { launch_each(runtime, Kernel::ReadElements, count, &args) }
}

/// What a transform makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    /// Coefficients, from the values on coset 0.
    Coefficients,
    /// Values on a coset, from the coefficients.
    Values {
        /// Which: 0 to 2.
        coset: usize,
    },
}

/// One launch of `ntt_pass`.
#[derive(Clone, Copy)]
struct Pass {
    /// Elements that are transformed together: a row, or the matrix.
    lg_unit: u32,
    lg_radix: u32,
    lg_stride: u32,
    lg_size: u32,
    between: bool,
    shift: u32,
    scale: bool,
}

/// The passes of a transform, in order.
fn passes(dimensions: Dimensions, transform: Transform) -> Vec<Pass> {
    let (lg_rows, lg_columns) = (dimensions.lg_rows(), dimensions.lg_columns());
    let along_rows = along(lg_columns, lg_columns, 0);
    let along_columns = along(lg_rows, dimensions.lg_scalars(), lg_columns);
    let (mut first, mut second, shift, scale) = match transform {
        Transform::Coefficients => (along_rows, along_columns, 0, true),
        // The factors between points: w^0, w^2 of order 2N, w of order 4N.
        Transform::Values { coset } => (along_columns, along_rows, [0, 2, 1][coset], false),
    };
    first[0].shift = shift;
    first.last_mut().expect("an axis has points").between = true;
    second.last_mut().expect("an axis has points").scale = scale;
    first.extend(second);
    first
}

/// The passes of a transform of 2^`lg_points` points, 2^`lg_stride` elements apart, in units of 2^`lg_unit`.
fn along(lg_points: u32, lg_unit: u32, mut lg_stride: u32) -> Vec<Pass> {
    let count = lg_points.div_ceil(LG_POINTS_PER_TILE);
    let mut lg_size = lg_points;
    (0..count)
        .map(|done| {
            let lg_radix = lg_size.div_ceil(count - done);
            let pass = Pass { lg_unit, lg_radix, lg_stride, lg_size, between: false, shift: 0, scale: false };
            lg_stride += lg_radix;
            lg_size -= lg_radix;
            pass
        })
        .collect()
}

/// Queues a transform of `input` to `output`, N elements each; `scratch` has room for as many.
pub(crate) fn ntt<R: Runtime>(
    runtime: &R,
    twiddles: &Twiddles<R::Memory>,
    dimensions: Dimensions,
    transform: Transform,
    input: &R::Memory,
    output: &mut R::Memory,
    scratch: &mut R::Memory,
) -> Result<(), DeviceError> {
    let lg_scalars = dimensions.lg_scalars();
    for memory in [input, output, scratch] {
        holds("elements in memory", memory, 1 << lg_scalars, BYTES_PER_SCALAR)?;
    }
    has("order of the twiddles, as log2", u64::from(lg_scalars + 2), twiddles.lg_order.into())?;
    has("order of the twiddles, as log2, at most", twiddles.lg_order.into(), u64::from(lg_scalars + 2))?;
    let passes = passes(dimensions, transform);
    let mut from = input.address();
    for (index, pass) in passes.iter().enumerate() {
        // The last one writes the output.
        let to = if (passes.len() - index) % 2 == 1 { output.address() } else { scratch.address() };
        let args = PassArgs {
            input: from,
            output: to,
            tile_powers: twiddles.tile.address(),
            low_powers: twiddles.low.address(),
            high_powers: twiddles.high.address(),
            lg_order: twiddles.lg_order,
            lg_low: twiddles.lg_low,
            lg_scalars,
            lg_columns: dimensions.lg_columns(),
            lg_unit: pass.lg_unit,
            lg_radix: pass.lg_radix,
            lg_stride: pass.lg_stride,
            lg_size: pass.lg_size,
            inverse: (transform == Transform::Coefficients).into(),
            between: pass.between.into(),
            shift: pass.shift,
            scale: pass.scale.into(),
        };
        let lg_tile = pass.lg_unit.min(LG_POINTS_PER_TILE);
        // SAFETY: ntt_pass takes PassArgs. Each of the N / 2^lg_tile blocks reads 2^lg_tile elements of the input and writes as
        // many of the output, all below N; exponents stay below the order of the tables. Input and output are different
        // memory, both borrowed here with room for N elements (checked above), and the caller keeps them until its next wait.
        unsafe { runtime.launch(Kernel::NttPass, 1 << (lg_scalars - lg_tile), &args)? };
        from = to;
    }
    Ok(())
}

/// Digests of all trees of a blob in device memory, level above level: those of all sectors, of all pairs, and so on up to
/// the coset roots; then the two above them.
pub(crate) struct Digests<M> {
    memory: M,
    dimensions: Dimensions,
}

impl<M: Memory> Digests<M> {
    /// Bytes for a blob of `dimensions`.
    pub(crate) fn bytes(dimensions: Dimensions) -> u64 {
        Self::at(dimensions, dimensions.lg_scalars() - SCALARS_PER_SECTOR.ilog2())
            + ((COSETS + 2) * BYTES_PER_DIGEST) as u64
    }

    /// Memory for a blob of `dimensions`.
    pub(crate) fn new<R: Runtime<Memory = M>>(runtime: &R, dimensions: Dimensions) -> Result<Self, DeviceError> {
        Ok(Digests { memory: runtime.alloc("digests of a blob", Self::bytes(dimensions))?, dimensions })
    }

    /// Where level `height` begins; level 0 has a digest for each sector.
    fn at(dimensions: Dimensions, height: u32) -> u64 {
        let sectors = (dimensions.scalars() / SCALARS_PER_SECTOR) as u64;
        COSETS as u64 * (2 * sectors - ((2 * sectors) >> height)) * BYTES_PER_DIGEST as u64
    }

    /// Height of the row roots.
    fn row_height(&self) -> u32 {
        self.dimensions.lg_columns() - SCALARS_PER_SECTOR.ilog2()
    }

    /// Height of the coset roots.
    fn coset_height(&self) -> u32 {
        self.row_height() + self.dimensions.lg_rows()
    }

    fn address(&self, height: u32) -> u64 {
        self.memory.address() + Self::at(self.dimensions, height)
    }

    fn storage_root(&self) -> u64 {
        self.address(self.coset_height()) + ((COSETS + 1) * BYTES_PER_DIGEST) as u64
    }
}

/// Queues the trees over `cosets`, R rows of C elements each.
pub(crate) fn hash<R: Runtime>(
    runtime: &R,
    cosets: &[R::Memory; COSETS],
    digests: &mut Digests<R::Memory>,
) -> Result<(), DeviceError> {
    let dimensions = digests.dimensions;
    let sectors = (dimensions.scalars() / SCALARS_PER_SECTOR) as u32;
    let bytes = (SCALARS_PER_SECTOR * BYTES_PER_SCALAR) as u64;
    let digest = BYTES_PER_DIGEST as u64;
    for (coset, memory) in (0u64..).zip(cosets) {
        holds("sectors in memory", memory, sectors, bytes as usize)?;
        let args = SectorArgs {
            scalars: memory.address(),
            digests: digests.address(0) + coset * u64::from(sectors) * digest,
            count: sectors,
            unused: 0,
        };
        // SAFETY: hash_sectors takes SectorArgs; it reads the sectors below `count` (checked above) and writes their digests,
        // one third of level 0; the caller keeps all memory until its next wait.
        unsafe { launch_each(runtime, Kernel::HashSectors, sectors, &args)? };
    }
    let parents = |left: u64, right: u64, to: u64, count: u32| {
        let args = ParentArgs { left, right, parents: to, stride: 2, count };
        // SAFETY: hash_parents takes ParentArgs. Below, `left` and `right` are digests of one level, of which there are
        // 2 `count` at least from `left` on, and `to` is the level above with `count` digests, or one of the two digests
        // above the last level. All lie in `digests`, which is borrowed mutably; the caller keeps it until its next wait.
        unsafe { launch_each(runtime, Kernel::HashParents, count, &args) }
    };
    for height in 0..digests.coset_height() {
        let from = digests.address(height);
        parents(from, from + digest, digests.address(height + 1), COSETS as u32 * (sectors >> (height + 1)))?;
    }
    // parent(parent(root 0, root 1), root 2)
    let roots = digests.address(digests.coset_height());
    let first_two = roots + COSETS as u64 * digest;
    parents(roots, roots + digest, first_two, 1)?;
    parents(first_two, roots + 2 * digest, digests.storage_root(), 1)
}

/// What slices are made of: the cosets' elements, the points of [`crate::commit`], and digests.
pub(crate) struct SliceParts<'a, M> {
    pub(crate) cosets: &'a [M; COSETS],
    pub(crate) nodes: &'a M,
    pub(crate) totals: &'a M,
    pub(crate) digests: &'a Digests<M>,
}

/// Queues all slices, and the roots: erasure commitment without flags, coset roots, storage root.
pub(crate) fn slices<R: Runtime>(
    runtime: &R,
    parts: &SliceParts<'_, R::Memory>,
    slices: &mut R::Memory,
    roots: &mut R::Memory,
) -> Result<(), DeviceError> {
    let dimensions = parts.digests.dimensions;
    let (rows, count) = (dimensions.rows() as u32, dimensions.slices() as u32);
    for memory in parts.cosets {
        holds("rows in memory", memory, rows, dimensions.row_bytes())?;
    }
    holds("nodes in memory", parts.nodes, COSETS as u32 * (2 * rows - 2), 2 * BYTES_PER_POINT)?;
    holds("total commitments in memory", parts.totals, 2, BYTES_PER_POINT)?;
    holds("slices in memory", slices, count, dimensions.slice_bytes())?;
    holds("roots in memory", roots, 1, BYTES_PER_ROOTS)?;
    let args = SliceArgs {
        cosets: parts.cosets.each_ref().map(Memory::address),
        nodes: parts.nodes.address(),
        totals: parts.totals.address(),
        digests: parts.digests.address(parts.digests.row_height()),
        storage_root: parts.digests.storage_root(),
        slices: slices.address(),
        roots: roots.address(),
        lg_rows: dimensions.lg_rows(),
        lg_columns: dimensions.lg_columns(),
    };
    // SAFETY: write_slices takes SliceArgs; block i < 3R writes slice i from what belongs to it, all inside memory that was
    // checked above; block 0 writes the roots. The caller keeps all memory until its next wait.
    unsafe { runtime.launch(Kernel::WriteSlices, count, &args) }
}

#[cfg(test)]
mod tests {
    use ark_bn254::Fr;
    use ark_ff::{BigInteger, FftField, Field};
    use ark_poly::{DenseUVPolynomial, EvaluationDomain, Polynomial, Radix2EvaluationDomain};

    use super::*;
    use crate::emulated::Host;

    fn bytes(elements: &[Fr]) -> Vec<u8> {
        elements.iter().flat_map(|element| element.0.to_bytes_le()).collect()
    }

    /// More than 2^10 rows or columns take two passes along them; others end with a radix of 2, or have a tile for many.
    #[test]
    fn transforms_of_every_shape_equal_the_twin() {
        for (lg_rows, lg_columns) in [(1, 3), (3, 4), (1, 11), (12, 3), (5, 9), (2, 10)] {
            let dimensions = Dimensions::new(lg_rows, lg_columns).unwrap();
            let (rows, columns, count) = (dimensions.rows(), dimensions.columns(), dimensions.scalars());
            let root = |lg_order: u32| Fr::get_root_of_unity(1 << lg_order).unwrap();
            let coefficients: Vec<Fr> = (1..=count as u64).map(|i| Fr::from(i).inverse().unwrap()).collect();

            let runtime = Host::open(0).unwrap();
            let twiddles = Twiddles::new(&runtime, dimensions).unwrap();
            let size = (count * BYTES_PER_SCALAR) as u64;
            let [mut input, mut output, mut scratch] =
                std::array::from_fn(|_| runtime.alloc("elements", size).unwrap());
            let mut found = vec![0; size as usize];
            let shifts = [Fr::from(1), root(dimensions.lg_scalars() + 1), root(dimensions.lg_scalars() + 2)];
            for (coset, shift) in shifts.into_iter().enumerate() {
                let domain = Radix2EvaluationDomain::<Fr>::new(count).unwrap().get_coset(shift).unwrap();
                let values = domain.fft(&coefficients);
                let matrix: Vec<Fr> = (0..count).map(|at| values[at % columns * rows + at / columns]).collect();
                runtime.write(&mut input, 0, &bytes(&coefficients)).unwrap();
                let transform = Transform::Values { coset };
                ntt(&runtime, &twiddles, dimensions, transform, &input, &mut output, &mut scratch).unwrap();
                runtime.read(&output, 0, &mut found).unwrap();
                assert!(found == bytes(&matrix), "values on coset {coset}, {dimensions:?}");
                if coset == 0 {
                    let transform = Transform::Coefficients;
                    ntt(&runtime, &twiddles, dimensions, transform, &output, &mut input, &mut scratch).unwrap();
                    runtime.read(&input, 0, &mut found).unwrap();
                    assert!(found == bytes(&coefficients), "coefficients, {dimensions:?}");
                }
            }
            // The order of the matrix, by the definition.
            let polynomial = ark_poly::univariate::DensePolynomial::from_coefficients_vec(coefficients);
            let point = shifts[2] * root(dimensions.lg_scalars()).pow([((columns - 1) * rows + 1) as u64]);
            let expected = bytes(&[polynomial.evaluate(&point)]);
            runtime
                .read(&output, ((2 * columns - 1) * BYTES_PER_SCALAR) as u64, &mut found[..BYTES_PER_SCALAR])
                .unwrap();
            assert_eq!(found[..BYTES_PER_SCALAR], expected, "last value of row 1, {dimensions:?}");
        }
    }
}
