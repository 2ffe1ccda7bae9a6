//! What a compute device is, for every backend alike.

use serde::Serialize;

/// Which family of code runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// SIMD code on the host's cores.
    Cpu,
    /// CUDA C++ kernels on an NVIDIA card.
    Cuda,
    /// WGSL shaders through wgpu.
    Wgpu,
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendKind::Cpu => "cpu",
            BackendKind::Cuda => "cuda",
            BackendKind::Wgpu => "wgpu",
        })
    }
}

/// Which backend to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum BackendChoice {
    /// CUDA, else a wgpu adapter that is no software, else the CPU.
    #[default]
    Auto,
    /// The best SIMD level of the host's cores.
    Cpu,
    /// The first CUDA card.
    Cuda,
    /// The first wgpu adapter, hardware before software.
    Wgpu,
}

/// A text that names no backend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no backend; there are auto, cpu, cuda and wgpu")]
pub struct UnknownBackend(String);

impl std::str::FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(BackendChoice::Auto),
            "cpu" => Ok(BackendChoice::Cpu),
            "cuda" => Ok(BackendChoice::Cuda),
            "wgpu" => Ok(BackendChoice::Wgpu),
            other => Err(UnknownBackend(other.chars().take(40).collect())),
        }
    }
}

impl std::fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendChoice::Auto => "auto",
            BackendChoice::Cpu => "cpu",
            BackendChoice::Cuda => "cuda",
            BackendChoice::Wgpu => "wgpu",
        })
    }
}

impl BackendChoice {
    /// The backend and the index of the device to open. `list` gives the devices of a backend, and why others cannot be
    /// used. Hardware goes before software; `auto` takes no software, and else the CPU's first device.
    pub fn pick(
        self,
        list: impl Fn(BackendKind) -> (Vec<DeviceInfo>, Vec<UnusableDevice>),
    ) -> Result<(BackendKind, usize), DeviceError> {
        let backend = match self {
            BackendChoice::Cpu => BackendKind::Cpu,
            BackendChoice::Cuda => BackendKind::Cuda,
            BackendChoice::Wgpu => BackendKind::Wgpu,
            BackendChoice::Auto => {
                let gpus = [BackendKind::Cuda, BackendKind::Wgpu];
                let found = gpus.into_iter().find_map(|kind| list(kind).0.into_iter().find(|device| !device.software));
                return Ok(found.map_or((BackendKind::Cpu, 0), |device| (device.backend, device.index)));
            }
        };
        let (usable, others) = list(backend);
        match usable.iter().min_by_key(|device| device.software) {
            Some(device) => Ok((backend, device.index)),
            None => Err(DeviceError::none_usable(backend, others)),
        }
    }
}

/// A device that can be opened, as `zgpu devices` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// The family of code that runs on it.
    pub backend: BackendKind,
    /// Position among the devices of this backend; what `open` takes.
    pub index: usize,
    /// Name from the driver, or the processor's name with its SIMD level.
    pub name: String,
    /// Driver and its version, or the reason why this level was chosen.
    pub driver: String,
    /// Compute capability, SIMD level or graphics API, whichever the backend has.
    pub level: String,
    /// Memory that work may use, in bytes; 0 where the driver does not say.
    pub memory_bytes: u64,
    /// Multiprocessors or cores; 0 where the driver does not say.
    pub compute_units: u32,
    /// True for an adapter that a CPU emulates (lavapipe, WARP): never chosen by `auto` over the CPU backend.
    pub software: bool,
}

/// A device, or a whole backend, that cannot be used here.
#[derive(Clone, Debug, Serialize)]
pub struct UnusableDevice {
    /// The family of code that would run on it.
    pub backend: BackendKind,
    /// Name of the device, or of what is missing.
    pub name: String,
    /// Why it cannot be used.
    pub reason: String,
    /// What a person can do about it.
    pub remedy: String,
}

impl UnusableDevice {
    /// A backend that a build does without.
    pub fn left_out(backend: BackendKind) -> Self {
        UnusableDevice {
            backend,
            name: backend.to_string(),
            reason: "this build leaves the backend out".into(),
            remedy: format!("build with the feature {backend}"),
        }
    }
}

/// Why a device could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device or its driver cannot be used at all.
    #[error("{backend} device {index} cannot be used: {reason}; {remedy}")]
    Unusable {
        /// Backend asked for.
        backend: BackendKind,
        /// Index asked for.
        index: usize,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// The device has too little memory for what was asked.
    #[error("{device}: {wanted} bytes of device memory wanted for {what}, {available} available")]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// What the memory is for.
        what: &'static str,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that can be had.
        available: u64,
    },
    /// An argument has the wrong length or lies out of bounds: a caller's mistake.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which argument.
        what: &'static str,
        /// What the call takes.
        expected: u64,
        /// What it got.
        got: u64,
    },
    /// The device disappeared, or its driver failed; nothing it returned since can be trusted.
    #[error("{device} was lost: {reason}")]
    Lost {
        /// Name of the device.
        device: String,
        /// What the driver said.
        reason: String,
    },
}

impl DeviceError {
    /// Why a backend without usable devices has none; `others` are those that cannot be used.
    pub fn none_usable(backend: BackendKind, others: Vec<UnusableDevice>) -> Self {
        let (reason, remedy) = match others.into_iter().next() {
            Some(other) => (format!("{}: {}", other.name, other.reason), other.remedy),
            None => ("there is no such device".into(), "choose another backend, or auto".into()),
        };
        DeviceError::Unusable { backend, index: 0, reason, remedy }
    }

    /// True when the device must not be used again without being opened anew.
    pub fn is_fatal(&self) -> bool {
        matches!(self, DeviceError::Unusable { .. } | DeviceError::Lost { .. })
    }
}
