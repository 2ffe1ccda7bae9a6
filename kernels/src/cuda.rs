//! Cards through the CUDA driver, which is loaded at run time: a machine without one gets a reason, not a failure to start.

use std::panic::catch_unwind;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use zgpu_core::device::{BackendKind, DeviceError, DeviceInfo, UnusableDevice};

use crate::images;
use crate::runtime::{Kernel, Memory, Runtime};

/// First driver interface that loads our images, CUDA 12.2, as cuDriverGetVersion counts.
const MIN_DRIVER_API: i32 = 12020;
const NO_DRIVER_REMEDY: &str = "install the NVIDIA driver, R535 or newer, and in a container pass the cards on";

/// Every usable card, and why others, or all of them, cannot be used. Starts nothing on the cards and never panics.
pub fn list() -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    if images::all().is_empty() {
        unusable.push(missing(
            "CUDA kernels",
            "this build holds none, because NVRTC was not found when it was built",
            "run scripts/setup and build again",
        ));
        return (usable, unusable);
    }
    // The loader of libcuda panics when a symbol is missing, as in a library that is older than everything we know.
    match catch_unwind(start_driver) {
        Err(_) => unusable.push(missing("CUDA driver", "libcuda is too old or broken", NO_DRIVER_REMEDY)),
        Ok(Err(reason)) => unusable.push(missing("CUDA driver", &reason, NO_DRIVER_REMEDY)),
        Ok(Ok(driver)) => {
            for index in 0..driver.cards {
                match describe(index, &driver) {
                    Ok(info) => usable.push(info),
                    Err(card) => unusable.push(card),
                }
            }
        }
    }
    (usable, unusable)
}

fn missing(name: &str, reason: &str, remedy: &str) -> UnusableDevice {
    UnusableDevice { backend: BackendKind::Cuda, name: name.into(), reason: reason.into(), remedy: remedy.into() }
}

/// A driver that is new enough, and the number of cards it shows.
struct Driver {
    cards: usize,
    version: String,
}

/// Loads and starts the driver; the error says in words what is wrong.
fn start_driver() -> Result<Driver, String> {
    // SAFETY: looks for a library, and runs its initialisers, which have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err("libcuda was not found".into());
    }
    let said = |e: DriverError| format!("the driver says {}", describe_error(e));
    result::init().map_err(said)?;
    let mut api = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { sys::cuDriverGetVersion(&mut api) }.result().map_err(said)?;
    let version = format!("{}CUDA {}.{}", module_version(), api / 1000, api % 1000 / 10);
    if api < MIN_DRIVER_API {
        return Err(format!("the driver ({version}) is older than CUDA 12.2"));
    }
    let cards = result::device::get_count().map_err(said)?;
    if cards == 0 {
        return Err("the driver shows no card".into());
    }
    Ok(Driver { cards: usize::try_from(cards).unwrap_or(0), version })
}

/// Version of the kernel module, such as "535.104.05, ", where the system tells.
fn module_version() -> String {
    std::fs::read_to_string("/proc/driver/nvidia/version")
        .ok()
        .and_then(|text| {
            let word = text
                .split_whitespace()
                .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'))?;
            Some(format!("{word}, "))
        })
        .unwrap_or_default()
}

fn describe_error(e: DriverError) -> String {
    let text = e.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{:?} ({text})", e.0)
}

/// Compute capability of a device: major, minor.
fn capability(device: sys::CUdevice) -> Result<(u32, u32), DriverError> {
    let attribute = |which| {
        // SAFETY: the device came from cuDeviceGet.
        unsafe { result::device::get_attribute(device, which) }.map(|value| u32::try_from(value).unwrap_or(0))
    };
    Ok((
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

/// A card as it is listed, without a context on it.
fn describe(index: usize, driver: &Driver) -> Result<DeviceInfo, UnusableDevice> {
    let query = || -> Result<(DeviceInfo, u32, u32), DriverError> {
        let device = result::device::get(i32::try_from(index).unwrap_or(i32::MAX))?;
        let (major, minor) = capability(device)?;
        // SAFETY: the device came from cuDeviceGet.
        let (memory_bytes, units) = unsafe {
            let units = result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
            (result::device::total_mem(device)?, units)
        };
        let info = DeviceInfo {
            backend: BackendKind::Cuda,
            index,
            name: result::device::get_name(device)?,
            driver: driver.version.clone(),
            level: format!("sm_{major}{minor}"),
            memory_bytes: memory_bytes as u64,
            compute_units: u32::try_from(units).unwrap_or(0),
            software: false,
        };
        Ok((info, major, minor))
    };
    match query() {
        Err(e) => Err(missing(&format!("CUDA card {index}"), &describe_error(e), "see the system's log for the card")),
        Ok((info, major, minor)) if Kernel::ALL.iter().any(|k| images::best(k.object(), major, minor).is_none()) => {
            let reason = format!("compute capability {major}.{minor} has no kernels in this build");
            Err(missing(&info.name, &reason, "use a card of capability 7.5 or more, and a build with all targets"))
        }
        Ok((info, ..)) => Ok(info),
    }
}

/// A card with a stream of its own.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: Arc<[CudaFunction]>,
    info: Arc<DeviceInfo>,
}

/// Memory of a card.
pub struct CudaMemory {
    slice: CudaSlice<u8>,
    len: u64,
    address: u64,
}

impl Drop for CudaMemory {
    /// The driver frees in the context of the thread, and this thread may never have used the card.
    fn drop(&mut self) {
        let _ = self.slice.context().bind_to_thread();
    }
}

impl Memory for CudaMemory {
    fn len(&self) -> u64 {
        self.len
    }

    fn address(&self) -> u64 {
        self.address
    }
}

/// Page-locked memory of the host.
pub struct PinnedMemory {
    context: Arc<CudaContext>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain bytes that only this value points to.
unsafe impl Send for PinnedMemory {}

impl AsRef<[u8]> for PinnedMemory {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the driver gave `len` bytes from `start` on, set since; they live as long as this value.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for PinnedMemory {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PinnedMemory {
    /// The driver frees in the context of the thread, and this thread may never have used the card.
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: it came from cuMemHostAlloc, and all copies from and to it have ended: each waits before it returns.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

/// An argument structure, handed to a kernel by value.
struct Arguments<A>(A);

// SAFETY: the structures of `launch` are repr(C), have the layout of those in the sources, and hold plain numbers.
unsafe impl<A: Copy> DeviceRepr for Arguments<A> {}

impl Cuda {
    fn lost(&self, e: DriverError) -> DeviceError {
        DeviceError::Lost { device: self.info.name.clone(), reason: describe_error(e) }
    }
}

impl Runtime for Cuda {
    type Memory = CudaMemory;
    type Staging = PinnedMemory;

    /// 512 MiB.
    const LG_LOADS_PER_CHUNK: u32 = 11;

    fn open(index: usize) -> Result<Self, DeviceError> {
        let unusable = |reason: String, remedy: String| DeviceError::Unusable {
            backend: BackendKind::Cuda,
            index,
            reason,
            remedy,
        };
        let (usable, others) = list();
        let Some(info) = usable.into_iter().find(|info| info.index == index) else {
            let (reason, remedy) = match others.into_iter().next() {
                Some(other) => (format!("{}: {}", other.name, other.reason), other.remedy),
                None => ("the driver shows fewer cards".into(), "ask for an index that `zgpu devices` shows".into()),
            };
            return Err(unusable(reason, remedy));
        };
        let start = || -> Result<Self, DriverError> {
            let context = CudaContext::new(index)?;
            // SAFETY: events order work between streams. Here each call of the runtime waits for its stream before it returns,
            // launches excepted, and memory that a launch uses stays borrowed until the wait that follows.
            unsafe { context.disable_event_tracking() };
            // Waiting threads sleep: the host's cores have work of their own.
            context.set_blocking_synchronize()?;
            let (major, minor) = capability(context.cu_device())?;
            let mut functions = Vec::with_capacity(Kernel::ALL.len());
            let mut loaded = None;
            for &kernel in Kernel::ALL {
                let module = match &loaded {
                    Some((object, module)) if *object == kernel.object() => Arc::clone(module),
                    _ => {
                        let image = images::best(kernel.object(), major, minor)
                            .ok_or(DriverError(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU))?;
                        let source = if image.ptx {
                            Ptx::from_src(String::from_utf8_lossy(image.bytes))
                        } else {
                            Ptx::from_binary(image.bytes.to_vec())
                        };
                        context.load_module(source)?
                    }
                };
                functions.push(module.load_function(kernel.name())?);
                loaded = Some((kernel.object(), module));
            }
            Ok(Self { stream: context.new_stream()?, context, functions: functions.into(), info: Arc::new(info) })
        };
        start().map_err(|e| unusable(describe_error(e), "see the system's log for the card".into()))
    }

    fn fork(&self) -> Result<Self, DeviceError> {
        Ok(Self {
            context: Arc::clone(&self.context),
            stream: self.context.new_stream().map_err(|e| self.lost(e))?,
            functions: Arc::clone(&self.functions),
            info: Arc::clone(&self.info),
        })
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.context.mem_get_info().map(|(free, _)| free as u64).map_err(|e| self.lost(e))
    }

    fn resident_threads(&self, kernel: Kernel) -> Result<u32, DeviceError> {
        let threads = kernel.threads_per_block();
        let blocks = self.functions[kernel as usize]
            .occupancy_max_active_blocks_per_multiprocessor(threads, 0, None)
            .map_err(|e| self.lost(e))?;
        Ok(blocks * threads * self.info.compute_units)
    }

    fn alloc(&self, what: &'static str, bytes: u64) -> Result<CudaMemory, DeviceError> {
        let out_of_memory = || DeviceError::OutOfMemory {
            device: self.info.name.clone(),
            what,
            wanted: bytes,
            available: self.free_bytes().unwrap_or(0),
        };
        let len = usize::try_from(bytes).map_err(|_| out_of_memory())?;
        // SAFETY: the memory is unset, and is only handed out as bytes with unspecified content. Length 0 gets a byte, since
        // the driver refuses to allocate none.
        let slice = unsafe { self.stream.alloc::<u8>(len.max(1)) }.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => out_of_memory(),
            _ => self.lost(e),
        })?;
        // The allocation is ordered with this stream; from here on other streams may use it too.
        self.wait()?;
        let (address, _) = slice.device_ptr(&self.stream);
        Ok(CudaMemory { address, len: bytes, slice })
    }

    fn write(&self, memory: &mut CudaMemory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let start = offset as usize;
        let mut view = memory.slice.slice_mut(start..start + bytes.len());
        self.stream.memcpy_htod(bytes, &mut view).map_err(|e| self.lost(e))?;
        self.wait()
    }

    fn read(&self, memory: &CudaMemory, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return self.wait();
        }
        let start = offset as usize;
        let view = memory.slice.slice(start..start + bytes.len());
        self.stream.memcpy_dtoh(&view, bytes).map_err(|e| self.lost(e))?;
        self.wait()
    }

    fn alloc_staging(&self, what: &'static str, bytes: u64) -> Result<PinnedMemory, DeviceError> {
        let device = self.info.name.clone();
        let no_memory = |e: DriverError| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                DeviceError::OutOfMemory { device: format!("host of {device}"), what, wanted: bytes, available: 0 }
            }
            _ => self.lost(e),
        };
        let len = usize::try_from(bytes).map_err(|_| no_memory(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)))?;
        self.context.bind_to_thread().map_err(|e| self.lost(e))?;
        // SAFETY: the context is current. Length 0 gets a byte, since the driver refuses to allocate none.
        let start = unsafe { result::malloc_host(len.max(1), 0) }.map_err(no_memory)?.cast::<u8>();
        let start = NonNull::new(start).expect("the driver gave memory");
        // SAFETY: so many bytes were allocated.
        unsafe { start.write_bytes(0, len) };
        Ok(PinnedMemory { context: Arc::clone(&self.context), start, len })
    }

    fn upload(&self, memory: &mut CudaMemory, staging: &PinnedMemory, bytes: u64) -> Result<(), DeviceError> {
        self.write(memory, 0, &staging.as_ref()[..bytes as usize])
    }

    fn download(&self, memory: &CudaMemory, staging: &mut PinnedMemory, bytes: u64) -> Result<(), DeviceError> {
        self.read(memory, 0, &mut staging.as_mut()[..bytes as usize])
    }

    unsafe fn launch<A: Copy + Sync>(&self, kernel: Kernel, blocks: u32, args: &A) -> Result<(), DeviceError> {
        let arguments = Arguments(*args);
        let threads = kernel.threads_per_block();
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller vouches for the structure and the addresses; the driver copies the structure before it returns.
        unsafe { self.stream.launch_builder(&self.functions[kernel as usize]).arg(&arguments).launch(config) }
            .map(|_| ())
            .map_err(|e| self.lost(e))
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(|e| self.lost(e))
    }
}
