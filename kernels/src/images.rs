//! The compiled kernels that this build holds, and what the assembler said of them.

/// Machine code or PTX of one object.
#[derive(Clone, Copy)]
pub struct Image {
    /// Name of the object, as [`crate::runtime::Kernel::object`] gives it.
    pub object: &'static str,
    /// Compute capability, major x 10 + minor: of the card for a cubin, the least that can take it for PTX.
    pub arch: u32,
    /// True for PTX, which the driver compiles when it is loaded.
    pub ptx: bool,
    /// An ELF file for a cubin, text for PTX.
    pub bytes: &'static [u8],
}

/// What one kernel takes of a multiprocessor, from the assembler's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelResources {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Compute capability it was assembled for, major x 10 + minor.
    pub arch: u32,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of stack a thread; anything but 0 costs memory traffic.
    pub stack_bytes: u32,
    /// Bytes that a thread stores and loads because registers ran out.
    pub spill_bytes: u32,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Every image of this build; none when it was built without NVRTC.
pub fn all() -> &'static [Image] {
    IMAGES
}

/// The assembler's report, one entry per kernel and target.
pub fn resources() -> &'static [KernelResources] {
    RESOURCES
}

/// The image of `object` that suits a card best: machine code of the same major capability and the highest minor one that
/// the card reaches; else PTX that it can take; else `None`.
pub fn best(object: &str, major: u32, minor: u32) -> Option<&'static Image> {
    let card = major * 10 + minor;
    let fits = |image: &&Image| image.object == object && image.arch <= card;
    let cubins = IMAGES.iter().filter(fits).filter(|image| !image.ptx && image.arch / 10 == major);
    let ptx = IMAGES.iter().filter(fits).filter(|image| image.ptx);
    cubins.max_by_key(|image| image.arch).or_else(|| ptx.max_by_key(|image| image.arch))
}
