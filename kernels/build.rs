//! Compiles the CUDA kernels and embeds them: one cubin for every target and object, and PTX for cards that are newer.
//!
//! The compiler is NVRTC, loaded at build time from `CUDA_PATH` or `.tools/` (which `scripts/setup` fills). Without it the
//! crate builds all the same, holds no images and says so. `ZGPU_CUDA_ARCHS=90` (comma list) limits the targets.
//! With the feature `emulate` the same sources are compiled as host code too.
//!
//! In OUT_DIR: `<object>.sm_<arch>.cubin`, `<object>.compute_<arch>.ptx`, `images.rs` with the tables that `src/images.rs` includes.

use std::env;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use libloading::Library;

/// Objects: a name, and the source below `cuda/`.
const OBJECTS: &[(&str, &str)] = &[
    ("bucket", "msm/bucket.cu"),
    ("combine", "curve/combine.cu"),
    ("draw", "pora/draw.cu"),
    ("merkle", "merkle/merkle.cu"),
    ("ntt", "ntt/ntt.cu"),
    ("scan", "pora/scan.cu"),
    ("seal", "seal/seal.cu"),
    ("slice", "slice/slice.cu"),
    ("sort", "msm/sort.cu"),
    ("table", "msm/table.cu"),
];
/// Compute capabilities with an image of their own.
const ARCHS: [u32; 5] = [75, 80, 86, 89, 90];
/// Capability of the embedded PTX, which every newer card can take.
const PTX_ARCH: u32 = 75;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=CUDA_PATH");
    println!("cargo::rerun-if-env-changed=ZGPU_CUDA_ARCHS");

    let library = nvrtc_candidates(&root).into_iter().find(|path| path.is_file());
    let tables = match library.as_deref().map(Nvrtc::load) {
        Some(Ok(nvrtc)) => compile_all(&nvrtc, &root.join("cuda"), &out),
        Some(Err(reason)) => no_images(&format!("NVRTC cannot be loaded: {reason}")),
        None => no_images("NVRTC was found neither in CUDA_PATH nor in .tools/"),
    };
    fs::write(out.join("images.rs"), tables).expect("OUT_DIR can be written");

    #[cfg(feature = "emulate")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flag_if_supported("-Wno-unknown-pragmas")
        .file(root.join("cuda/host/emulate.cpp"))
        .compile("zgpu_emulate");
}

/// Where NVRTC may be, best first. A place that is still empty is watched too, on the platform that has wheels for it.
fn nvrtc_candidates(root: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(cuda) = env::var_os("CUDA_PATH").map(PathBuf::from) {
        for folder in ["lib64", "lib", "targets/x86_64-linux/lib"] {
            places.push(cuda.join(folder).join("libnvrtc.so.12"));
            places.push(cuda.join(folder).join("libnvrtc.so"));
        }
    }
    let tools = root.join("../.tools/nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    if tools.is_file() || cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("cargo::rerun-if-changed={}", tools.display());
    }
    places.push(tools);
    places
}

/// The tables of a build without kernels.
fn no_images(reason: &str) -> String {
    println!("cargo::warning={reason}: this build holds no CUDA kernels; run scripts/setup and build again");
    "static IMAGES: &[Image] = &[];\nstatic RESOURCES: &[KernelResources] = &[];\n".to_owned()
}

/// Compiles every object for every target; returns the source of the tables.
fn compile_all(nvrtc: &Nvrtc, sources: &Path, out: &Path) -> String {
    let archs: Vec<u32> = match env::var("ZGPU_CUDA_ARCHS") {
        Err(_) => ARCHS.to_vec(),
        Ok(list) => {
            let wanted: Vec<&str> = list.split(',').map(str::trim).collect();
            for arch in &wanted {
                assert!(
                    ARCHS.iter().any(|known| known.to_string() == *arch),
                    "ZGPU_CUDA_ARCHS: {arch:?} is not one of {ARCHS:?}"
                );
            }
            ARCHS.into_iter().filter(|arch| wanted.contains(&arch.to_string().as_str())).collect()
        }
    };
    // Every object for every target, and as PTX: compiled side by side, written down in this order.
    let jobs: Vec<(&str, PathBuf, u32, bool)> = OBJECTS
        .iter()
        .flat_map(|&(object, source)| {
            let targets = archs.iter().map(|&arch| (arch, false)).chain([(PTX_ARCH, true)]);
            targets.map(move |(arch, ptx)| (object, sources.join(source), arch, ptx))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<(Vec<u8>, String)>> = jobs.iter().map(|_| OnceLock::new()).collect();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                while let Some((place, (_, path, arch, ptx))) = {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(place).map(|job| (place, job))
                } {
                    let kind = if *ptx { "compute" } else { "sm" };
                    let compiled = nvrtc.compile(path, &format!("{kind}_{arch}"));
                    results[place].set(compiled).expect("a job is done once");
                }
            });
        }
    });
    let mut images = String::from("static IMAGES: &[Image] = &[\n");
    let mut resources = String::from("static RESOURCES: &[KernelResources] = &[\n");
    for ((object, _, arch, ptx), result) in jobs.iter().zip(results) {
        let (mut image, log) = result.into_inner().expect("every job is done");
        let file = if *ptx {
            while image.last() == Some(&0) {
                image.pop();
            }
            format!("{object}.compute_{arch}.ptx")
        } else {
            add_resources(&mut resources, *arch, &log);
            format!("{object}.sm_{arch}.cubin")
        };
        fs::write(out.join(&file), image).expect("OUT_DIR can be written");
        add_image(&mut images, object, *arch, *ptx, &file);
    }
    images + "];\n" + &resources + "];\n"
}

fn add_image(table: &mut String, object: &str, arch: u32, ptx: bool, file: &str) {
    writeln!(
        table,
        "    Image {{ object: {object:?}, arch: {arch}, ptx: {ptx}, bytes: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")) }},"
    )
    .expect("a string grows");
}

/// Reads what ptxas says of each kernel: "Function properties for NAME", then "S bytes stack frame, A bytes spill stores,
/// B bytes spill loads", then "Used R registers".
fn add_resources(table: &mut String, arch: u32, log: &str) {
    let (mut kernel, mut stack, mut spills) = ("", 0, 0);
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Function properties for ") {
            kernel = name.trim();
        } else if line.contains("bytes stack frame") {
            let numbers = numbers(line);
            (stack, spills) = (numbers[0], numbers[1] + numbers[2]);
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = numbers(rest)[0];
            writeln!(
                table,
                "    KernelResources {{ kernel: {kernel:?}, arch: {arch}, registers: {registers}, stack_bytes: {stack}, spill_bytes: {spills} }},"
            )
            .expect("a string grows");
        }
    }
}

/// Whole numbers in a line of text.
fn numbers(line: &str) -> Vec<u32> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The few calls of NVRTC that a build needs. Loaded by path, so that the version asked for is the one that compiles.
struct Nvrtc {
    library: Library,
}

type Program = *mut c_void;

impl Nvrtc {
    fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: NVRTC's initialisers have no preconditions.
        let library = unsafe { Library::new(path) }?;
        println!("cargo::rerun-if-changed={}", path.display());
        Ok(Self { library })
    }

    /// Compiles one source file for `target`: sm_NN gives a cubin, compute_NN gives PTX. Returns the image and the log.
    /// A source that does not compile ends the build with the compiler's log.
    fn compile(&self, path: &Path, target: &str) -> (Vec<u8>, String) {
        let folder = path.parent().expect("a source has a folder");
        let source = CString::new(fs::read(path).expect("the source is there")).expect("no zero byte in a source");
        let name = CString::new(path.to_string_lossy().into_owned()).expect("no zero byte in a path");
        let options: Vec<CString> = [
            format!("--gpu-architecture={target}"),
            format!("--include-path={}", folder.display()),
            "--std=c++17".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ]
        .into_iter()
        .map(|option| CString::new(option).expect("no zero byte in an option"))
        .collect();
        let option_pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(options.len()).expect("a handful");

        let mut program: Program = ptr::null_mut();
        // SAFETY: the signatures are those of nvrtc.h; every pointer outlives the call; the program is created before it is used.
        let status = unsafe {
            let create = self.call::<unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> c_int>(c"nvrtcCreateProgram");
            let compile = self
                .call::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>(c"nvrtcCompileProgram");
            let created = create(&mut program, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null());
            assert_eq!(created, 0, "nvrtcCreateProgram failed");
            compile(program, count, option_pointers.as_ptr())
        };
        let log = self.output(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog");
        let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().into_owned();
        assert_eq!(status, 0, "{} does not compile for {target}:\n{log}", path.display());
        let image = if target.starts_with("sm_") {
            self.output(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")
        } else {
            self.output(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX")
        };
        // SAFETY: as above; the program is not used again.
        unsafe {
            self.call::<unsafe extern "C" fn(*mut Program) -> c_int>(c"nvrtcDestroyProgram")(&mut program);
        }
        (image, log)
    }

    /// One output of a compiled program, by the pair of calls that gives its size and its bytes.
    fn output(&self, program: Program, size_call: &CStr, bytes_call: &CStr) -> Vec<u8> {
        let mut size = 0usize;
        let mut bytes;
        // SAFETY: the signatures are those of nvrtc.h; the buffer has the size that NVRTC asked for.
        let status = unsafe {
            let get_size = self.call::<unsafe extern "C" fn(Program, *mut usize) -> c_int>(size_call);
            let get_bytes = self.call::<unsafe extern "C" fn(Program, *mut u8) -> c_int>(bytes_call);
            assert_eq!(get_size(program, &mut size), 0, "{size_call:?} failed");
            bytes = vec![0u8; size];
            get_bytes(program, bytes.as_mut_ptr())
        };
        assert_eq!(status, 0, "{bytes_call:?} failed");
        bytes
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the function's type in nvrtc.h.
    unsafe fn call<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: the caller gives the right type.
        *unsafe { self.library.get::<F>(name) }.unwrap_or_else(|e| panic!("NVRTC lacks {name:?}: {e}"))
    }
}
