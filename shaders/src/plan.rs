//! Work that is the same for every blob: dispatches with their bindings and parameters, made once and run again and again.

use std::num::NonZeroU64;
use std::ops::Range;

use wgpu::{
    BindGroup, BindingResource, Buffer, BufferBinding, BufferUsages, CommandEncoder, ComputePassDescriptor,
    ComputePipeline,
};
use zgpu_core::device::DeviceError;

use crate::adapter::WORKGROUP;
use crate::device::Device;
use crate::program::Program;

/// Bytes of the parameters of a dispatch: the largest parameter block of a kernel of a blob.
const PARAMETER_BYTES: usize = 64;

/// Dispatches, in submissions short enough for a driver's watchdog.
pub(crate) struct Plan {
    dispatches: Vec<Dispatch>,
    submissions: Vec<Range<usize>>,
}

struct Dispatch {
    pipeline: ComputePipeline,
    group: BindGroup,
    /// Where its parameters begin.
    offset: u32,
    /// Workgroups in x and y.
    workgroups: (u32, u32),
}

impl Plan {
    /// Submits all of it; `before` records what comes first in the first submission.
    pub(crate) fn run(&self, device: &Device, before: impl FnOnce(&mut CommandEncoder)) -> Result<(), DeviceError> {
        let mut before = Some(before);
        for submission in &self.submissions {
            device.submit(|encoder| {
                if let Some(before) = before.take() {
                    before(encoder);
                }
                let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
                for dispatch in &self.dispatches[submission.clone()] {
                    pass.set_pipeline(&dispatch.pipeline);
                    pass.set_bind_group(0, &dispatch.group, &[dispatch.offset]);
                    pass.dispatch_workgroups(dispatch.workgroups.0, dispatch.workgroups.1, 1);
                }
            })?;
        }
        Ok(())
    }
}

/// Collects the dispatches of a plan.
pub(crate) struct Planner<'a> {
    device: &'a Device,
    dispatches: Vec<(&'a Program, Vec<&'a Buffer>, (u32, u32))>,
    submissions: Vec<Range<usize>>,
    parameters: Vec<u8>,
    stride: usize,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(device: &'a Device) -> Self {
        let stride = PARAMETER_BYTES.next_multiple_of(device.limits.min_uniform_buffer_offset_alignment as usize);
        Self { device, dispatches: Vec::new(), submissions: Vec::new(), parameters: Vec::new(), stride }
    }

    /// A dispatch with a thread for each of `count` pieces of work.
    pub(crate) fn threads(&mut self, program: &'a Program, buffers: &[&'a Buffer], parameters: &[u32], count: u64) {
        self.workgroups(program, buffers, parameters, count.div_ceil(WORKGROUP.into()));
    }

    /// A dispatch of `count` workgroups.
    ///
    /// Both dimensions together may be a few workgroups too many, and kernels bound their numbers.
    pub(crate) fn workgroups(&mut self, program: &'a Program, buffers: &[&'a Buffer], parameters: &[u32], count: u64) {
        let most = u64::from(self.device.limits.max_compute_workgroups_per_dimension);
        let rows = count.div_ceil(most).max(1);
        let in_dimension =
            |workgroups: u64| u32::try_from(workgroups).expect("less than 2^32 threads for each of 2^26 scalars");
        self.dispatches.push((program, buffers.to_vec(), (in_dimension(count.div_ceil(rows)), in_dimension(rows))));
        self.parameters.extend_from_slice(bytemuck::cast_slice(parameters));
        self.parameters.resize(self.dispatches.len() * self.stride, 0);
    }

    /// Ends a submission.
    pub(crate) fn submit(&mut self) {
        let first = self.submissions.last().map_or(0, |last| last.end);
        if first < self.dispatches.len() {
            self.submissions.push(first..self.dispatches.len());
        }
    }

    /// The plan, with its parameters on the device.
    pub(crate) fn finish(mut self) -> Result<Plan, DeviceError> {
        self.submit();
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let parameters = self.device.buffer("parameters of a blob", self.parameters.len() as u64, usage)?;
        self.device.write(&parameters, 0, &self.parameters)?;
        let window = BufferBinding { buffer: &parameters, offset: 0, size: NonZeroU64::new(PARAMETER_BYTES as u64) };
        let dispatches = self.dispatches.iter().enumerate().map(|(number, (program, buffers, workgroups))| {
            Ok(Dispatch {
                pipeline: program.pipeline.clone(),
                group: self.device.bind(program, BindingResource::Buffer(window.clone()), buffers)?,
                offset: (number * self.stride) as u32,
                workgroups: *workgroups,
            })
        });
        Ok(Plan { dispatches: dispatches.collect::<Result<_, _>>()?, submissions: self.submissions })
    }
}
