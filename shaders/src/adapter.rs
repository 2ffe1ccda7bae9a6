//! Which adapters there are, and which of them can run the kernels.

use wgpu::{Adapter, Backends, DeviceType, DownlevelFlags, Instance, InstanceDescriptor};
use zgpu_core::device::{BackendKind, DeviceInfo, UnusableDevice};
use zgpu_core::units::BYTES_PER_LOAD;

/// Threads in a workgroup of every kernel.
pub(crate) const WORKGROUP: u32 = 64;
/// Storage buffers that the largest kernel binds.
const STORAGE_BUFFERS: u32 = 5;
/// Bytes of the largest uniform binding, the table of Keccak's round constants.
const UNIFORM_BYTES: u64 = 24 * 16;

/// Every usable device in the order of [`crate::PoraDevice::open`], and every other one with the reason.
///
/// Software adapters (lavapipe, WARP) are usable, have `software` set and are marked in their name. Never fails: where there
/// is no driver at all, the second list says so.
pub fn list() -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    let (usable, unusable) = survey();
    (usable.into_iter().map(|(_, info)| info).collect(), unusable)
}

/// [`list`], with the adapters themselves.
pub(crate) fn survey() -> (Vec<(Adapter, DeviceInfo)>, Vec<UnusableDevice>) {
    let mut usable = Vec::new();
    let mut unusable = Vec::new();
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    if (Instance::enabled_backend_features() & backends).is_empty() {
        unusable.push(no_device("this build has no graphics API for this platform", "use another backend"));
        return (usable, unusable);
    }
    let instance = Instance::new(InstanceDescriptor { backends, ..InstanceDescriptor::new_without_display_handle() });
    for adapter in pollster::block_on(instance.enumerate_adapters(backends)) {
        match shortcoming(&adapter) {
            None => {
                let info = describe(&adapter, usable.len());
                usable.push((adapter, info));
            }
            Some(reason) => unusable.push(UnusableDevice {
                backend: BackendKind::Wgpu,
                name: adapter.get_info().name,
                reason,
                remedy: "update its driver, or use another device".into(),
            }),
        }
    }
    if usable.is_empty() && unusable.is_empty() {
        unusable.push(no_device(
            "no adapter was found",
            "install the Vulkan driver of the card, or Mesa's software one (Debian: mesa-vulkan-drivers)",
        ));
    }
    (usable, unusable)
}

fn no_device(reason: &str, remedy: &str) -> UnusableDevice {
    UnusableDevice {
        backend: BackendKind::Wgpu,
        name: "graphics driver".into(),
        reason: reason.into(),
        remedy: remedy.into(),
    }
}

/// What an adapter lacks, if anything.
fn shortcoming(adapter: &Adapter) -> Option<String> {
    if !adapter.get_downlevel_capabilities().flags.contains(DownlevelFlags::COMPUTE_SHADERS) {
        return Some("it has no compute shaders".into());
    }
    let limits = adapter.limits();
    let needs: [(&str, u64, u64); 5] = [
        ("threads in a workgroup", WORKGROUP.into(), limits.max_compute_invocations_per_workgroup.into()),
        ("threads in a workgroup's x", WORKGROUP.into(), limits.max_compute_workgroup_size_x.into()),
        ("storage buffers in a kernel", STORAGE_BUFFERS.into(), limits.max_storage_buffers_per_shader_stage.into()),
        ("bytes in a storage binding", BYTES_PER_LOAD as u64, limits.max_storage_buffer_binding_size),
        ("bytes in a uniform binding", UNIFORM_BYTES, limits.max_uniform_buffer_binding_size),
    ];
    needs
        .iter()
        .find(|(_, needed, has)| has < needed)
        .map(|(what, needed, has)| format!("{needed} {what} are needed, it allows {has}"))
}

fn describe(adapter: &Adapter, index: usize) -> DeviceInfo {
    let info = adapter.get_info();
    let software = info.device_type == DeviceType::Cpu;
    DeviceInfo {
        backend: BackendKind::Wgpu,
        index,
        name: if software { format!("{} [software]", info.name) } else { info.name },
        driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
        level: format!("{:?}", info.backend),
        memory_bytes: memory_bytes(adapter),
        compute_units: 0,
        software,
    }
}

/// Bytes of the largest heap of device memory; 0 where the graphics API does not say.
#[cfg(not(target_vendor = "apple"))]
fn memory_bytes(adapter: &Adapter) -> u64 {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the Vulkan handles are only read while `adapter` keeps them alive, and nothing is destroyed.
    let Some(adapter) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else {
        return 0;
    };
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device was made by this instance, and both live as long as the guard above.
    let memory = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max().unwrap_or(0)
}

/// Bytes of device memory: Metal does not say through wgpu.
#[cfg(target_vendor = "apple")]
fn memory_bytes(_adapter: &Adapter) -> u64 {
    0
}
