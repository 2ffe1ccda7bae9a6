//! The shaders, put together from the files of `wgsl/`, and their pipelines.

use std::sync::{Mutex, PoisonError};

use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingResource,
    BindingType, Buffer, BufferBindingType, BufferUsages, ComputePipeline, ComputePipelineDescriptor,
    PipelineCompilationOptions, PipelineLayoutDescriptor, ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource,
    ShaderStages,
};
use zgpu_core::device::DeviceError;

use crate::device::Device;

/// A kernel: its text, its entry point and what it binds.
pub(crate) struct Kernel {
    source: &'static str,
    entry: &'static str,
    /// Bindings 1, 2, …: true where the kernel writes. Binding 0 is the uniform with its parameters.
    writes: &'static [bool],
    /// Whether the parameters lie at a dynamic offset.
    many_parameters: bool,
    /// Whether binding 7 is the table of Keccak's round constants.
    keccak: bool,
}

/// Scratch pads and recall seeds: binds pads, pad seeds, recall seeds.
pub(crate) const DRAW: Kernel = Kernel {
    source: concat!(
        include_str!("../wgsl/hash/word.wgsl"),
        include_str!("../wgsl/hash/blake2b.wgsl"),
        include_str!("../wgsl/hash/keccak.wgsl"),
        include_str!("../wgsl/pora/draw.wgsl"),
    ),
    entry: "draw_pads",
    writes: &[true, true, true],
    many_parameters: false,
    keccak: true,
};

/// Qualities of seals: binds pads, pad seeds, loads, items, hits.
pub(crate) const SCAN: Kernel = Kernel {
    source: concat!(
        include_str!("../wgsl/hash/word.wgsl"),
        include_str!("../wgsl/hash/blake2b.wgsl"),
        include_str!("../wgsl/pora/scan.wgsl"),
    ),
    entry: "scan_items",
    writes: &[false, false, false, false, true],
    many_parameters: true,
    keccak: false,
};

/// Sealing in place: binds first masks, data.
pub(crate) const SEAL: Kernel = Kernel {
    source: concat!(include_str!("../wgsl/hash/keccak.wgsl"), include_str!("../wgsl/seal/seal.wgsl")),
    entry: "seal_units",
    writes: &[false, true],
    many_parameters: false,
    keccak: true,
};

/// The text of a kernel of this list of files, after those that every kernel of a blob has.
macro_rules! text {
    ($($file:literal),+) => {
        concat!(include_str!("../wgsl/grid.wgsl"), $(include_str!(concat!("../wgsl/", $file))),+)
    };
}

/// [`text`], with the scalar field before it.
macro_rules! text_over_fr {
    ($($file:literal),+) => { text!("field/fr.wgsl", "field/field.wgsl", $($file),+) };
}

/// [`text`], with the points before it.
macro_rules! text_over_g1 {
    ($($file:literal),+) => { text!("field/fq.wgsl", "field/field.wgsl", "curve/curve.wgsl", $($file),+) };
}

/// A kernel of a blob: all of them have their parameters at a dynamic offset.
pub(crate) const fn kernel_of_blob(source: &'static str, entry: &'static str, writes: &'static [bool]) -> Kernel {
    Kernel { source, entry, writes, many_parameters: true, keccak: false }
}

/// The prover's points: binds points.
pub(crate) const CONVERT: Kernel = kernel_of_blob(text_over_g1!("curve/convert.wgsl"), "convert_points", &[true]);
/// Powers of the root of unity: binds roots.
pub(crate) const ROOTS: Kernel = kernel_of_blob(text_over_fr!("ntt/make_roots.wgsl"), "make_roots", &[true]);
/// Scalars of the transforms of points: binds roots, factors.
pub(crate) const FACTORS: Kernel =
    kernel_of_blob(text_over_fr!("ntt/roots.wgsl", "ntt/make_factors.wgsl"), "make_factors", &[false, true]);
/// Bytes to scalars: binds data, cosets, values.
pub(crate) const MATRIX: Kernel = kernel_of_blob(text_over_fr!("ntt/matrix.wgsl"), "take_matrix", &[false, true, true]);
/// A pass of a transform: binds roots, values.
pub(crate) const BUTTERFLIES: Kernel =
    kernel_of_blob(text_over_fr!("ntt/roots.wgsl", "ntt/butterflies.wgsl"), "add_butterflies", &[false, true]);
/// The end of the inverse transform: binds roots, values, coefficients.
pub(crate) const COEFFICIENTS: Kernel =
    kernel_of_blob(text_over_fr!("ntt/coefficients.wgsl"), "take_coefficients", &[false, false, true]);
/// The start of the transform to a coset: binds roots, coefficients, values.
pub(crate) const SCATTER: Kernel =
    kernel_of_blob(text_over_fr!("ntt/roots.wgsl", "ntt/scatter.wgsl"), "scatter_coefficients", &[false, false, true]);
/// The end of the transform to a coset: binds values, cosets.
pub(crate) const ROWS: Kernel = kernel_of_blob(text_over_fr!("ntt/rows.wgsl"), "take_rows", &[false, true]);
/// Points by digit: binds scalars, pieces, order, starts.
pub(crate) const SORT: Kernel =
    kernel_of_blob(include_str!("../wgsl/msm/sort.wgsl"), "sort_digits", &[false, false, true, true]);
/// Sums of buckets: binds bases, pieces, order, starts, buckets.
pub(crate) const ACCUMULATE: Kernel =
    kernel_of_blob(text_over_g1!("msm/accumulate.wgsl"), "accumulate_buckets", &[false, false, false, false, true]);
/// Weighted sums of groups of buckets: binds buckets.
pub(crate) const GROUPS: Kernel = kernel_of_blob(text_over_g1!("msm/groups.wgsl"), "sum_groups", &[true]);
/// Sums of windows: binds buckets, sums.
pub(crate) const WINDOWS: Kernel = kernel_of_blob(text_over_g1!("msm/windows.wgsl"), "sum_windows", &[false, true]);
/// Results of pieces: binds sums, pieces.
pub(crate) const PIECES: Kernel = kernel_of_blob(text_over_g1!("msm/pieces.wgsl"), "sum_pieces", &[false, true]);
/// Results of MSMs: binds pieces, nodes.
pub(crate) const RUNS: Kernel = kernel_of_blob(text_over_g1!("curve/sum.wgsl"), "sum_runs", &[false, true]);
/// A level of trees of points: binds nodes.
pub(crate) const CHILDREN: Kernel = kernel_of_blob(text_over_g1!("curve/tree.wgsl"), "add_children", &[true]);
/// The start of the transforms of points: binds factors, nodes.
pub(crate) const SPREAD: Kernel =
    kernel_of_blob(text_over_g1!("curve/multiply.wgsl", "ntt/spread.wgsl"), "spread_blocks", &[false, true]);
/// A pass of the transforms of points: binds factors, nodes.
pub(crate) const POINT_BUTTERFLIES: Kernel = kernel_of_blob(
    text_over_g1!("curve/multiply.wgsl", "ntt/point_butterflies.wgsl"),
    "add_point_butterflies",
    &[false, true],
);
/// Bytes of points: binds nodes, bytes.
pub(crate) const AFFINE: Kernel =
    kernel_of_blob(text_over_g1!("curve/affine.wgsl"), "serialise_points", &[false, true]);
/// Leaves of the trees over rows: binds cosets, digests.
pub(crate) const SECTORS: Kernel = Kernel {
    keccak: true,
    ..kernel_of_blob(text!("hash/keccak.wgsl", "merkle/sectors.wgsl"), "hash_sectors", &[false, true])
};
/// A level of the trees over rows: binds digests.
pub(crate) const PARENTS: Kernel = Kernel {
    keccak: true,
    ..kernel_of_blob(text!("hash/keccak.wgsl", "merkle/parents.wgsl"), "hash_parents", &[true])
};
/// Bytes of slices: binds cosets, points, digests, slices.
pub(crate) const SLICES: Kernel =
    kernel_of_blob(text!("slice/slices.wgsl"), "write_slices", &[false, false, false, true]);

/// Binding of Keccak's round constants.
const KECCAK_BINDING: u32 = 7;

/// Bit 2^j - 1 of round constant t is bit j + 7 t of the sequence of x^8 + x^6 + x^5 + x^4 + 1 (FIPS 202, section 3.2.5).
const KECCAK_ROUNDS: [u64; 24] = {
    let mut rounds = [0u64; 24];
    let mut register = 1u32;
    let mut step = 0;
    while step < 24 * 7 {
        rounds[step / 7] |= ((register & 1) as u64) << ((1 << (step % 7)) - 1);
        register <<= 1;
        if register & 0x100 != 0 {
            register ^= 0x171;
        }
        step += 1;
    }
    rounds
};

/// A kernel that is ready to run.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) pipeline: ComputePipeline,
    keccak_rounds: Option<Buffer>,
}

/// The pipelines of a device, each made when it is first needed.
#[derive(Default)]
pub(crate) struct Programs {
    draw: Mutex<Option<Program>>,
    scan: Mutex<Option<Program>>,
    seal: Mutex<Option<Program>>,
}

impl Device {
    /// The program of `DRAW`.
    pub(crate) fn draw_program(&self) -> Result<Program, DeviceError> {
        self.program(&self.programs.draw, &DRAW)
    }

    /// The program of `SCAN`.
    pub(crate) fn scan_program(&self) -> Result<Program, DeviceError> {
        self.program(&self.programs.scan, &SCAN)
    }

    /// The program of `SEAL`.
    pub(crate) fn seal_program(&self) -> Result<Program, DeviceError> {
        self.program(&self.programs.seal, &SEAL)
    }

    fn program(&self, slot: &Mutex<Option<Program>>, kernel: &Kernel) -> Result<Program, DeviceError> {
        // Held while the driver compiles, so that lanes which start together compile once.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*slot {
            return Ok(program.clone());
        }
        Ok(slot.insert(self.new_program(kernel)?).clone())
    }

    /// Compiles a kernel.
    pub(crate) fn new_program(&self, kernel: &Kernel) -> Result<Program, DeviceError> {
        let pipeline = self.guard(kernel.entry, 0, || self.compile(kernel))?;
        let keccak_rounds = match kernel.keccak {
            true => Some(self.keccak_rounds()?),
            false => None,
        };
        Ok(Program { pipeline, keccak_rounds })
    }

    /// The table of `keccak.wgsl`: 24 times low half, high half, 0, 0.
    fn keccak_rounds(&self) -> Result<Buffer, DeviceError> {
        let words = KECCAK_ROUNDS.map(|round| [round as u32, (round >> 32) as u32, 0, 0]);
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let buffer = self.buffer("Keccak's round constants", size_of_val(&words) as u64, usage)?;
        self.write(&buffer, 0, bytemuck::bytes_of(&words))?;
        Ok(buffer)
    }

    fn compile(&self, kernel: &Kernel) -> ComputePipeline {
        let entry = |binding: u32, ty: BufferBindingType, has_dynamic_offset: bool| BindGroupLayoutEntry {
            binding,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, BufferBindingType::Uniform, kernel.many_parameters)];
        entries.extend(
            (1..)
                .zip(kernel.writes)
                .map(|(at, &writes)| entry(at, BufferBindingType::Storage { read_only: !writes }, false)),
        );
        if kernel.keccak {
            entries.push(entry(KECCAK_BINDING, BufferBindingType::Uniform, false));
        }
        let label = Some(kernel.entry);
        let bindings = self.raw.create_bind_group_layout(&BindGroupLayoutDescriptor { label, entries: &entries });
        let layout = self.raw.create_pipeline_layout(&PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        let text = ShaderModuleDescriptor { label, source: ShaderSource::Wgsl(kernel.source.into()) };
        // A counter in every loop of a field product costs instructions, and may keep drivers from unrolling.
        let checks = ShaderRuntimeChecks { force_loop_bounding: false, ..ShaderRuntimeChecks::checked() };
        // SAFETY: the text is one of this crate's, all of whose loops count up or down to a bound; all other checks stay.
        let module = unsafe { self.raw.create_shader_module_trusted(text, checks) };
        self.raw.create_compute_pipeline(&ComputePipelineDescriptor {
            label,
            layout: Some(&layout),
            module: &module,
            entry_point: label,
            compilation_options: PipelineCompilationOptions::default(),
            cache: None,
        })
    }

    /// Binds parameters and the kernel's buffers in their order.
    pub(crate) fn bind(
        &self,
        program: &Program,
        parameters: BindingResource<'_>,
        buffers: &[&Buffer],
    ) -> Result<BindGroup, DeviceError> {
        let mut entries = vec![BindGroupEntry { binding: 0, resource: parameters }];
        entries.extend(
            (1..)
                .zip(buffers)
                .map(|(binding, buffer)| BindGroupEntry { binding, resource: buffer.as_entire_binding() }),
        );
        if let Some(rounds) = &program.keccak_rounds {
            entries.push(BindGroupEntry { binding: KECCAK_BINDING, resource: rounds.as_entire_binding() });
        }
        self.guard("a bind group", 0, || {
            self.raw.create_bind_group(&BindGroupDescriptor {
                label: None,
                layout: &program.pipeline.get_bind_group_layout(0),
                entries: &entries,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a device too: every kernel's text is valid WGSL, uses no optional capability, and binds what its table says.
    #[test]
    fn every_kernel_is_valid_and_binds_what_its_table_says() {
        use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
        use wgpu::naga::{AddressSpace, StorageAccess};

        let of_blobs = [
            CONVERT,
            ROOTS,
            FACTORS,
            MATRIX,
            BUTTERFLIES,
            COEFFICIENTS,
            SCATTER,
            ROWS,
            SORT,
            ACCUMULATE,
            GROUPS,
            WINDOWS,
            PIECES,
            RUNS,
            CHILDREN,
            SPREAD,
            POINT_BUTTERFLIES,
            AFFINE,
            SECTORS,
            PARENTS,
            SLICES,
        ];
        for kernel in [DRAW, SCAN, SEAL].into_iter().chain(of_blobs) {
            let module = wgpu::naga::front::wgsl::parse_str(kernel.source)
                .unwrap_or_else(|error| panic!("{}: {}", kernel.entry, error.emit_to_string(kernel.source)));
            Validator::new(ValidationFlags::all(), Capabilities::empty())
                .validate(&module)
                .unwrap_or_else(|error| panic!("{}: {}", kernel.entry, error.emit_to_string(kernel.source)));
            let [entry] = &module.entry_points[..] else { panic!("{}: one entry point", kernel.entry) };
            assert_eq!((entry.name.as_str(), entry.workgroup_size), (kernel.entry, [crate::adapter::WORKGROUP, 1, 1]));

            let mut bound: Vec<_> = module
                .global_variables
                .iter()
                .filter(|(_, variable)| variable.space != AddressSpace::WorkGroup)
                .map(|(_, variable)| (variable.binding.expect("every other global is bound").binding, variable.space))
                .collect();
            bound.sort_by_key(|&(binding, _)| binding);
            let mut table = vec![(0, AddressSpace::Uniform)];
            table.extend((1..).zip(kernel.writes).map(|(binding, &writes)| {
                let written = if writes { StorageAccess::STORE } else { StorageAccess::empty() };
                (binding, AddressSpace::Storage { access: StorageAccess::LOAD | written })
            }));
            if kernel.keccak {
                table.push((KECCAK_BINDING, AddressSpace::Uniform));
            }
            assert_eq!(bound, table, "{}", kernel.entry);
        }
    }

    #[test]
    fn round_constants_are_those_of_the_standard() {
        // First, second and last of FIPS 202.
        assert_eq!(KECCAK_ROUNDS[0], 0x0000_0000_0000_0001);
        assert_eq!(KECCAK_ROUNDS[1], 0x0000_0000_0000_8082);
        assert_eq!(KECCAK_ROUNDS[23], 0x8000_0000_8000_8008);
    }
}
