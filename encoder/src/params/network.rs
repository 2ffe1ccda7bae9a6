//! Files of parameters as the network's tools write them, for one coset each or with powers of τ.
//!
//! Source: the network's DA encoder. With L = lg N, positions in its order q and their points i being bit reversals of each other:
//!
//! | file | layout |
//! |---|---|
//! | prover, Montgomery | `bamt`, u8 L, u8 lg R, \[1\]₂ and [τ^hs]₂ (full), N Lagrange points, lg R x N quotients, Σ 2^d vanishing points, N high Lagrange points |
//! | prover | N Lagrange points, lg R lists of N quotients, lg R lists of 2^d vanishing points, \[1\]₂, N high Lagrange points, [τ^hs]₂ |
//! | verifier | N Lagrange points, lg R lists of 2^d vanishing points, \[1\]₂, [τ^hs]₂ |
//! | powers, Montgomery | `ptau`, u8 L, [τ^hs]₂ (full), N powers, N powers in G2, N high powers |
//! | powers | N powers, N powers in G2, N high powers, [τ^hs]₂, all compressed |
//!
//! Lists have their length in front, a little-endian u64. The coset of a file is known from its name alone. Quotients are
//! passed over. The powers come from the Lagrange points of coset 0 by a transform over G1, [τ^j]₁ = Σ_i ω^(ij)·[L_i(τ)]₁,
//! the high powers likewise; and Lagrange points from powers by the inverse, [L_i(τ/c_k)]₁ = (1/N)·Σ_j ω^(-ij)·c_k^(-j)·[τ^j]₁.
//!
//! Every point that is read is checked: canonical, on the curve, in the group, not at infinity. Whether the points belong
//! together is for [`audit`](super::audit) to say.

use std::{
    fs::{self, File},
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use ark_bn254::{Fr, G1Affine, G2Affine, G2Projective};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{Field, One};
use ark_poly::EvaluationDomain;
use rayon::prelude::*;
use zgpu_core::blob::BYTES_PER_POINT;

use super::{
    BadPoint, Labels, ParamsError, Progress, ProverParams, Report, Vanishing, VerifierParams,
    content::{Content, Contents, Layout, Section},
    points,
    tau::write,
    transform::{GroupTransform, SplitScalar, products},
};
use crate::{
    blob::{COSETS, Dimensions, DimensionsError},
    extend::{coset_shift, domain, reversed},
    points::{BYTES_PER_G2_POINT, Encoding, montgomery_point_bytes},
};

/// Points that are read and checked at a time: 1 MB.
const POINTS_AT_A_TIME: usize = 1 << 14;
/// Bytes of a list's length.
const BYTES_PER_COUNT: u64 = 8;

/// What is wrong with a file of the network.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// No format begins like this and has this length.
    #[error("no file of parameters that is known: {actual} bytes, beginning with {first:02x?}")]
    Unknown {
        /// Its length.
        actual: u64,
        /// Its first eight bytes, zeros if there are fewer.
        first: [u8; 8],
    },
    /// It has another length.
    #[error("{actual} bytes, expected {expected}")]
    Length {
        /// Its length.
        actual: u64,
        /// What belongs to its dimensions.
        expected: u64,
    },
    /// It is of another kind.
    #[error("it is {actual}, expected {expected}")]
    Kind {
        /// What it is.
        actual: &'static str,
        /// What was asked for.
        expected: &'static str,
    },
    /// It has another number of scalars.
    #[error("it has 2^{actual} points, expected 2^{expected}")]
    Size {
        /// What it has.
        actual: u32,
        /// What was asked for.
        expected: u32,
    },
    /// No challenge file has this length.
    #[error(
        "{actual} bytes, expected 384 x 2^n + 128 with n above {lg_scalars}: at least {smallest}, 103079215232 for n = 28"
    )]
    Challenge {
        /// Its length.
        actual: u64,
        /// log2 of the matrix's scalars.
        lg_scalars: u32,
        /// The length of the smallest that will do.
        smallest: u64,
    },
    /// A list has another length.
    #[error("a list of {section} has {actual} entries, expected {expected}")]
    Count {
        /// Which points.
        section: &'static str,
        /// What it has.
        actual: u64,
        /// What belongs to the dimensions.
        expected: u64,
    },
    /// The matrix has a size that does not work.
    #[error(transparent)]
    Dimensions(#[from] DimensionsError),
    /// A point is none.
    #[error(transparent)]
    Point(#[from] BadPoint),
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A coset's points for the prover.
    Prover {
        /// Size of the matrix.
        dimensions: Dimensions,
        /// Whether it begins with `bamt` and is in Montgomery form.
        is_montgomery: bool,
    },
    /// A coset's points for the verifier.
    Verifier {
        /// Size of the matrix.
        dimensions: Dimensions,
    },
    /// Powers of τ.
    Powers {
        /// log2 of their number.
        lg_scalars: u32,
        /// Whether it begins with `ptau` and is in Montgomery form.
        is_montgomery: bool,
    },
    /// A file of our own.
    Own,
}

impl Format {
    /// The format in words.
    pub fn name(self) -> &'static str {
        match self {
            Format::Prover { is_montgomery: true, .. } => "a prover file (Montgomery form)",
            Format::Prover { .. } => "a prover file",
            Format::Verifier { .. } => "a verifier file",
            Format::Powers { is_montgomery: true, .. } => "a file of powers (Montgomery form)",
            Format::Powers { .. } => "a file of powers",
            Format::Own => "a file of our own",
        }
    }

    /// What a file is, from its first bytes and its length.
    pub fn detect(path: &Path) -> Result<Self, ParamsError> {
        let mut file = File::open(path).map_err(ParamsError::io(path))?;
        let length = file.metadata().map_err(ParamsError::io(path))?.len();
        let mut first = Vec::new();
        (&mut file).take(8).read_to_end(&mut first).map_err(ParamsError::io(path))?;
        first.resize(8, 0);
        let first = first.try_into().expect("8 bytes");
        Self::from_start(first, length).map_err(|source| ParamsError::Foreign { path: path.to_owned(), source })
    }

    /// What a file is, from its first eight bytes and its length.
    pub fn from_start(first: [u8; 8], length: u64) -> Result<Self, FormatError> {
        let fits = |format: Format, expected: u64| {
            if length == expected { Ok(format) } else { Err(FormatError::Length { actual: length, expected }) }
        };
        match first {
            super::file::MAGIC => Ok(Format::Own),
            [b'b', b'a', b'm', b't', lg_scalars, lg_rows, ..] => {
                let lg_columns = u32::from(lg_scalars).wrapping_sub(lg_rows.into());
                let dimensions = Dimensions::new(lg_rows.into(), lg_columns)?;
                fits(Format::Prover { dimensions, is_montgomery: true }, prover_montgomery(dimensions).length)
            }
            [b'p', b't', b'a', b'u', lg_scalars, ..] => {
                let dimensions = Dimensions::new(1, u32::from(lg_scalars).wrapping_sub(1))?;
                let format = Format::Powers { lg_scalars: lg_scalars.into(), is_montgomery: true };
                fits(format, 4 + 1 + 128 + 256 * dimensions.scalars() as u64)
            }
            _ => Self::from_count(u64::from_le_bytes(first), length)
                .ok_or(FormatError::Unknown { actual: length, first }),
        }
    }

    /// The formats that begin with the number of their points are told apart by their length.
    fn from_count(count: u64, length: u64) -> Option<Self> {
        let lg_scalars = (count.is_power_of_two() && count <= 1 << 26).then(|| count.ilog2())?;
        if length == powers_compressed(lg_scalars) {
            return Some(Format::Powers { lg_scalars, is_montgomery: false });
        }
        (1..lg_scalars).find_map(|lg_rows| {
            let dimensions = Dimensions::new(lg_rows, lg_scalars - lg_rows).ok()?;
            if length == verifier(dimensions).length {
                Some(Format::Verifier { dimensions })
            } else {
                (length == prover(dimensions).length).then_some(Format::Prover { dimensions, is_montgomery: false })
            }
        })
    }
}

/// Where the parts of a coset's file begin.
struct CosetLayout {
    length: u64,
    encoding: Encoding,
    lagrange: u64,
    /// Where the vanishing points begin; in front of each depth is a count if the lists have one.
    vanishing: u64,
    has_counts: bool,
    high_lagrange: Option<u64>,
    g2: u64,
    high_g2: u64,
}

fn bytes_g1(dimensions: Dimensions) -> u64 {
    (dimensions.scalars() * BYTES_PER_POINT) as u64
}

fn bytes_vanishing(dimensions: Dimensions) -> u64 {
    (2 * dimensions.rows() as u64 - 2) * BYTES_PER_G2_POINT as u64
}

fn prover_montgomery(dimensions: Dimensions) -> CosetLayout {
    let lagrange = 6 + 2 * 128;
    let vanishing = lagrange + (1 + u64::from(dimensions.lg_rows())) * bytes_g1(dimensions);
    let high_lagrange = vanishing + bytes_vanishing(dimensions);
    CosetLayout {
        length: high_lagrange + bytes_g1(dimensions),
        encoding: Encoding::Montgomery,
        lagrange,
        vanishing,
        has_counts: false,
        high_lagrange: Some(high_lagrange),
        g2: 6,
        high_g2: 6 + 128,
    }
}

fn prover(dimensions: Dimensions) -> CosetLayout {
    let (list, depths) = (BYTES_PER_COUNT + bytes_g1(dimensions), u64::from(dimensions.lg_rows()));
    let vanishing = list + BYTES_PER_COUNT + depths * list + BYTES_PER_COUNT;
    let g2 = vanishing + depths * BYTES_PER_COUNT + bytes_vanishing(dimensions);
    let high_lagrange = g2 + 128 + BYTES_PER_COUNT;
    let high_g2 = high_lagrange + bytes_g1(dimensions);
    CosetLayout {
        length: high_g2 + 128,
        encoding: Encoding::Full,
        lagrange: BYTES_PER_COUNT,
        vanishing,
        has_counts: true,
        high_lagrange: Some(high_lagrange),
        g2,
        high_g2,
    }
}

fn verifier(dimensions: Dimensions) -> CosetLayout {
    let vanishing = BYTES_PER_COUNT + bytes_g1(dimensions) + BYTES_PER_COUNT;
    let g2 = vanishing + u64::from(dimensions.lg_rows()) * BYTES_PER_COUNT + bytes_vanishing(dimensions);
    CosetLayout {
        length: g2 + 2 * 128,
        encoding: Encoding::Full,
        lagrange: BYTES_PER_COUNT,
        vanishing,
        has_counts: true,
        high_lagrange: None,
        g2,
        high_g2: g2 + 128,
    }
}

fn powers_compressed(lg_scalars: u32) -> u64 {
    3 * BYTES_PER_COUNT + (128 << lg_scalars) + 64
}

/// Points at known places of a file, each read as it is needed.
pub(super) struct PointReader<R> {
    pub(super) path: PathBuf,
    pub(super) reader: R,
}

impl PointReader<BufReader<File>> {
    fn open(path: &Path) -> Result<Self, ParamsError> {
        let file = File::open(path).map_err(ParamsError::io(path))?;
        Ok(PointReader { path: path.to_owned(), reader: BufReader::new(file) })
    }
}

impl<R: Read + Seek> PointReader<R> {
    pub(super) fn foreign(&self, source: impl Into<FormatError>) -> ParamsError {
        ParamsError::Foreign { path: self.path.clone(), source: source.into() }
    }

    pub(super) fn bytes(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), ParamsError> {
        let read = self.reader.seek(SeekFrom::Start(offset)).and_then(|_| self.reader.read_exact(bytes));
        read.map_err(ParamsError::io(&self.path))
    }

    pub(super) fn g2(&mut self, encoding: Encoding, offset: u64, name: &'static str) -> Result<G2Affine, ParamsError> {
        let mut bytes = vec![0; encoding.g2_bytes()];
        self.bytes(offset, &mut bytes)?;
        encoding.g2(&bytes).map_err(|fault| self.foreign(BadPoint { section: name, index: 0, fault }))
    }

    /// Points of G2 at `offset`, `stride` apart.
    pub(super) fn g2_points(
        &mut self,
        encoding: Encoding,
        offset: u64,
        stride: u64,
        count: usize,
        section: &'static str,
    ) -> Result<Vec<G2Affine>, ParamsError> {
        let size = encoding.g2_bytes();
        let mut bytes = vec![0; count * size];
        for (index, bytes) in (0..).zip(bytes.chunks_exact_mut(size)) {
            self.bytes(offset + index * stride * size as u64, bytes)?;
        }
        let read = bytes.par_chunks_exact(size).enumerate().map(|(index, bytes)| {
            encoding.g2(bytes).map_err(|fault| BadPoint { section, index: index * stride as usize, fault })
        });
        read.collect::<Result<_, _>>().map_err(|bad| self.foreign(bad))
    }

    /// Reads points of G1 and writes each to its place in `section`, which is for 64 bytes a point.
    pub(super) fn g1_points(
        &mut self,
        encoding: Encoding,
        offset: u64,
        name: &'static str,
        section: &mut [u8],
        place: impl Fn(usize) -> usize + Sync,
        report: Report<'_>,
    ) -> Result<(), ParamsError> {
        let (size, count) = (encoding.g1_bytes(), section.len() / BYTES_PER_POINT);
        let mut bytes = vec![0; POINTS_AT_A_TIME.min(count) * size];
        let (places, _) = section.as_chunks_mut::<BYTES_PER_POINT>();
        for first in (0..count).step_by(POINTS_AT_A_TIME) {
            let bytes = &mut bytes[..(count - first).min(POINTS_AT_A_TIME) * size];
            self.bytes(offset + (first * size) as u64, bytes)?;
            let read = bytes.par_chunks_exact(size).enumerate().map(|(index, bytes)| {
                let bad = |fault| BadPoint { section: name, index: first + index, fault };
                encoding.g1(bytes).map(|point| montgomery_point_bytes(&point)).map_err(bad)
            });
            let points: Vec<[u8; BYTES_PER_POINT]> = read.collect::<Result<_, _>>().map_err(|bad| self.foreign(bad))?;
            (first..).zip(points).for_each(|(index, point)| places[place(index)] = point);
            let done = (first + bytes.len() / size) as u64;
            report(Progress { stage: name, done, total: count as u64 });
        }
        Ok(())
    }

    fn count(&mut self, offset: u64, section: &'static str, expected: u64) -> Result<(), ParamsError> {
        let mut bytes = [0; BYTES_PER_COUNT as usize];
        self.bytes(offset, &mut bytes)?;
        let actual = u64::from_le_bytes(bytes);
        if actual == expected { Ok(()) } else { Err(self.foreign(FormatError::Count { section, actual, expected })) }
    }

    /// The vanishing points of a coset.
    fn vanishing(&mut self, layout: &CosetLayout, dimensions: Dimensions) -> Result<Vec<Vec<G2Affine>>, ParamsError> {
        const NAME: &str = "vanishing points";
        let mut offset = layout.vanishing;
        if layout.has_counts {
            self.count(offset - BYTES_PER_COUNT, NAME, dimensions.lg_rows().into())?;
        }
        let depths = (1..=dimensions.lg_rows()).map(|depth| {
            if layout.has_counts {
                self.count(offset, NAME, 1 << depth)?;
                offset += BYTES_PER_COUNT;
            }
            let points = self.g2_points(layout.encoding, offset, 1, 1 << depth, NAME)?;
            offset += BYTES_PER_G2_POINT as u64 * (1 << depth);
            Ok(points)
        });
        depths.collect()
    }
}

/// All files of a folder, in the order of their names.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, ParamsError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(ParamsError::io(folder))? {
        let path = entry.map_err(ParamsError::io(folder))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Why a set of three files is not found among others.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetError {
    /// One is missing.
    #[error("there is no {pattern}")]
    Missing {
        /// How its name looks.
        pattern: String,
    },
    /// One is there more than once.
    #[error("there is more than one {pattern}: name the three files")]
    Ambiguous {
        /// How its name looks.
        pattern: String,
    },
}

/// The network's three prover files among `files`, by their names and in the order of the cosets; those in Montgomery form
/// when both are there.
pub fn prover_set(files: &[PathBuf]) -> Result<[PathBuf; COSETS], SetError> {
    coset_set(files, "amt-prove", true).or_else(|reason| coset_set(files, "amt-prove", false).map_err(|_| reason))
}

/// The network's three verifier files among `files`, by their names and in the order of the cosets.
pub fn verifier_set(files: &[PathBuf]) -> Result<[PathBuf; COSETS], SetError> {
    coset_set(files, "amt-verify", false)
}

fn coset_set(files: &[PathBuf], kind: &str, is_montgomery: bool) -> Result<[PathBuf; COSETS], SetError> {
    let mut set = [const { PathBuf::new() }; COSETS];
    for (coset, place) in set.iter_mut().enumerate() {
        let prefix = format!("{kind}-coset{coset}-");
        let fits = |file: &&PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with("mont-") == is_montgomery)
        };
        let mut fitting = files.iter().filter(fits);
        let pattern = if is_montgomery { format!("{prefix}mont-*") } else { format!("{prefix}*") };
        *place = fitting.next().ok_or_else(|| SetError::Missing { pattern: pattern.clone() })?.clone();
        if fitting.next().is_some() {
            return Err(SetError::Ambiguous { pattern });
        }
    }
    Ok(set)
}

/// The dimensions that three files share.
fn shared_dimensions(
    paths: &[PathBuf; COSETS],
    expected: &'static str,
    dimensions_of: impl Fn(Format) -> Option<(Dimensions, CosetLayout)>,
) -> Result<(Dimensions, [CosetLayout; COSETS]), ParamsError> {
    let read = |path: &PathBuf| {
        let format = Format::detect(path)?;
        dimensions_of(format).ok_or_else(|| ParamsError::Foreign {
            path: path.clone(),
            source: FormatError::Kind { actual: format.name(), expected },
        })
    };
    let [first, second, third] = [read(&paths[0])?, read(&paths[1])?, read(&paths[2])?];
    for (other, path) in [(&second, &paths[1]), (&third, &paths[2])] {
        if other.0 != first.0 {
            return Err(differs(&paths[0], path, "the size of the matrix"));
        }
    }
    Ok((first.0, [first.1, second.1, third.1]))
}

fn differs(first: &Path, second: &Path, what: &'static str) -> ParamsError {
    ParamsError::Set { first: first.to_owned(), second: second.to_owned(), what }
}

/// Everything of three files but the high Lagrange points.
fn read_cosets(
    paths: &[PathBuf; COSETS],
    layouts: &[CosetLayout; COSETS],
    content: &mut Content,
    report: Report<'_>,
) -> Result<(Vanishing, [G2Affine; 2]), ParamsError> {
    let dimensions = content.layout().dimensions;
    let mut vanishing: Vanishing = Default::default();
    let mut shared = None;
    for (coset, (path, layout)) in paths.iter().zip(layouts).enumerate() {
        let mut file = PointReader::open(path)?;
        let section = Section::Lagrange(coset);
        if layout.has_counts {
            file.count(layout.lagrange - BYTES_PER_COUNT, section.name(), dimensions.scalars() as u64)?;
        }
        let g2 = file.g2(Encoding::Full, layout.g2, "[1]_2")?;
        let high_g2 = file.g2(Encoding::Full, layout.high_g2, "[tau^high_start]_2")?;
        if *shared.get_or_insert([g2, high_g2]) != [g2, high_g2] {
            return Err(differs(&paths[0], path, "[1]_2 or [tau^high_start]_2"));
        }
        vanishing[coset] = file.vanishing(layout, dimensions)?;
        let places = content.section_mut(section);
        file.g1_points(layout.encoding, layout.lagrange, section.name(), places, |q| row_place(dimensions, q), report)?;
    }
    Ok((vanishing, shared.expect("there are three cosets")))
}

/// Where the network's position `q` stands in R rows of C: q is i = κR + ρ with its bits reversed.
fn row_place(dimensions: Dimensions, q: usize) -> usize {
    let row = reversed(q >> dimensions.lg_columns(), dimensions.lg_rows());
    let column = reversed(q % dimensions.columns(), dimensions.lg_columns());
    row * dimensions.columns() + column
}

/// Parameters of the prover from the network's prover files of the three cosets, in either encoding: reads the points and
/// transforms twice, minutes at full size. `high_start` is for the record: the files do not say it.
pub fn import_prover(
    paths: &[PathBuf; COSETS],
    high_start: Option<u64>,
    report: Report<'_>,
) -> Result<ProverParams, ParamsError> {
    let (dimensions, layouts) = shared_dimensions(paths, "a prover file", |format| match format {
        Format::Prover { dimensions, is_montgomery: true } => Some((dimensions, prover_montgomery(dimensions))),
        Format::Prover { dimensions, is_montgomery: false } => Some((dimensions, prover(dimensions))),
        _ => None,
    })?;
    let mut content = Content::new(Layout { dimensions, contents: Contents::Prover });
    let (vanishing, g2) = read_cosets(paths, &layouts, &mut content, report)?;

    let mut file = PointReader::open(&paths[0])?;
    let high = layouts[0].high_lagrange.expect("prover files have high Lagrange points");
    if layouts[0].has_counts {
        file.count(high - BYTES_PER_COUNT, "high Lagrange points", dimensions.scalars() as u64)?;
    }
    let bits = dimensions.lg_scalars();
    let natural = |q: usize| reversed(q, bits);
    let places = content.section_mut(Section::HighPowers);
    file.g1_points(layouts[0].encoding, high, "high Lagrange points", places, natural, report)?;

    let transform = GroupTransform::new(bits);
    let mut high_powers = points(content.section(Section::HighPowers), 0..dimensions.scalars());
    transform.forward(&mut high_powers, &count("recovering high powers", transform.butterflies(), report));
    write(content.section_mut(Section::HighPowers), &high_powers);
    drop(high_powers);
    let rows = points(content.section(Section::Lagrange(0)), 0..dimensions.scalars());
    let (height, width) = (dimensions.rows(), dimensions.columns());
    let mut powers: Vec<G1Affine> = (0..rows.len()).map(|i| rows[i % height * width + i / height]).collect();
    transform.forward(&mut powers, &count("recovering powers", transform.butterflies(), report));
    write(content.section_mut(Section::Powers), &powers);

    let labels = Labels { tau_g2: None, high_start, source: source_of("prover files", paths) };
    Ok(content.with_vanishing(vanishing, g2, labels).into_prover().expect("the prover's points are there"))
}

/// Parameters of a verifier from the network's verifier files of the three cosets, or from its prover files.
pub fn import_verifier(
    paths: &[PathBuf; COSETS],
    high_start: Option<u64>,
    report: Report<'_>,
) -> Result<VerifierParams, ParamsError> {
    let (dimensions, layouts) = shared_dimensions(paths, "a verifier or prover file", |format| match format {
        Format::Prover { dimensions, is_montgomery: true } => Some((dimensions, prover_montgomery(dimensions))),
        Format::Prover { dimensions, is_montgomery: false } => Some((dimensions, prover(dimensions))),
        Format::Verifier { dimensions } => Some((dimensions, verifier(dimensions))),
        _ => None,
    })?;
    let mut content = Content::new(Layout { dimensions, contents: Contents::Verifier });
    let (vanishing, g2) = read_cosets(paths, &layouts, &mut content, report)?;
    let labels = Labels { tau_g2: None, high_start, source: source_of("verifier files", paths) };
    Ok(content.with_vanishing(vanishing, g2, labels))
}

/// Parameters of the prover from a file of powers, in either encoding: reads the points and transforms three times,
/// minutes at full size. The file does not say how many rows the matrix has, nor where the high powers begin.
pub fn import_powers(
    path: &Path,
    dimensions: Dimensions,
    high_start: Option<u64>,
    report: Report<'_>,
) -> Result<ProverParams, ParamsError> {
    let format = Format::detect(path)?;
    let mut file = PointReader::open(path)?;
    let Format::Powers { lg_scalars, is_montgomery } = format else {
        return Err(file.foreign(FormatError::Kind { actual: format.name(), expected: "a file of powers" }));
    };
    if lg_scalars != dimensions.lg_scalars() {
        return Err(file.foreign(FormatError::Size { actual: lg_scalars, expected: dimensions.lg_scalars() }));
    }
    let scalars = dimensions.scalars() as u64;
    let encoding = if is_montgomery { Encoding::Montgomery } else { Encoding::Compressed };
    let (g1_bytes, g2_bytes) = (encoding.g1_bytes() as u64, encoding.g2_bytes() as u64);
    let gap = if is_montgomery { 0 } else { BYTES_PER_COUNT };
    let powers_at = if is_montgomery { 4 + 1 + 128 } else { BYTES_PER_COUNT };
    let g2_at = powers_at + scalars * g1_bytes + gap;
    let high_at = g2_at + scalars * g2_bytes + gap;
    if !is_montgomery {
        for (at, section) in [(powers_at, "powers"), (g2_at, "powers in G2"), (high_at, "high powers")] {
            file.count(at - BYTES_PER_COUNT, section, scalars)?;
        }
    }
    let mut content = Content::new(Layout { dimensions, contents: Contents::Prover });
    for (section, at) in [(Section::Powers, powers_at), (Section::HighPowers, high_at)] {
        file.g1_points(encoding, at, section.name(), content.section_mut(section), |j| j, report)?;
    }
    let high_g2 = if is_montgomery {
        file.g2(Encoding::Full, 5, "[tau^high_start]_2")?
    } else {
        file.g2(Encoding::Compressed, high_at + scalars * g1_bytes, "[tau^high_start]_2")?
    };
    let tau_g2 = file.g2(encoding, g2_at + g2_bytes, "[tau]_2")?;
    let strided = file.g2_points(encoding, g2_at, dimensions.columns() as u64, dimensions.rows(), "powers in G2")?;

    let bases = LagrangeBases::new(dimensions);
    let powers = points(content.section(Section::Powers), 0..dimensions.scalars());
    for coset in 0..COSETS {
        bases.write(&powers, coset, content.section_mut(Section::Lagrange(coset)), report);
    }
    let labels = Labels { tau_g2: Some(tau_g2), high_start, source: source_of("file of powers", &[path.to_owned()]) };
    let verifier = content.with_vanishing(vanishing(dimensions, &strided), [strided[0], high_g2], labels);
    Ok(verifier.into_prover().expect("the prover's points are there"))
}

/// Lagrange points from powers.
pub(super) struct LagrangeBases {
    dimensions: Dimensions,
    transform: GroupTransform,
}

impl LagrangeBases {
    pub(super) fn new(dimensions: Dimensions) -> Self {
        LagrangeBases { dimensions, transform: GroupTransform::new(dimensions.lg_scalars()) }
    }

    /// Writes [L_i(τ/c_k)]₁, R rows of C, from the N powers.
    pub(super) fn write(&self, powers: &[G1Affine], coset: usize, section: &mut [u8], report: Report<'_>) {
        let dimensions = self.dimensions;
        let ratio = coset_shift(dimensions, coset).inverse().expect("a shift is not zero");
        let first = domain(dimensions.lg_scalars()).size_inv;
        let factors: Vec<Fr> =
            std::iter::successors(Some(first), |factor| Some(*factor * ratio)).take(powers.len()).collect();
        let factors: Vec<SplitScalar> = factors.into_par_iter().map(SplitScalar::new).collect();
        let total = powers.len() as u64 + self.transform.butterflies();
        let progress = count(Section::Lagrange(coset).name(), total, report);
        let mut values = products(powers, &factors, &progress);
        self.transform.backward(&mut values, &progress);
        let (rows, columns) = (dimensions.rows(), dimensions.columns());
        let (places, _) = section.as_chunks_mut::<BYTES_PER_POINT>();
        let value = |at: usize| &values[at % columns * rows + at / columns];
        places.par_iter_mut().enumerate().for_each(|(at, place)| *place = montgomery_point_bytes(value(at)));
    }
}

/// The vanishing points of all cosets from [τ^(jC)]₂ for j < R: with s = N/2^d and ρ the 2^d-th root of unity,
/// V(τ/c_k) = Σ_{j < 2^d} ρ^(-t(j+1))·(τ/c_k)^(js) for the node that is t with its bits reversed.
pub(super) fn vanishing(dimensions: Dimensions, strided: &[G2Affine]) -> Vanishing {
    std::array::from_fn(|coset| {
        let depths = (1..=dimensions.lg_rows()).into_par_iter().map(|depth| {
            let (nodes, step) = (1usize << depth, dimensions.scalars() >> depth);
            let ratio = coset_shift(dimensions, coset).inverse().expect("a shift is not zero").pow([step as u64]);
            let mut factor = Fr::one();
            let mut terms: Vec<G2Projective> = (0..nodes)
                .map(|j| {
                    let term = strided[j * step / dimensions.columns()].into_group() * factor;
                    factor *= ratio;
                    term
                })
                .collect();
            // ρ^(-t(j+1)) and not ρ^(-tj): the terms move on by one place, the last to the first.
            terms.rotate_right(1);
            let values = domain(depth).fft(&terms);
            let node = |node: usize| values[(nodes - reversed(node, depth)) % nodes];
            G2Projective::normalize_batch(&(0..nodes).map(node).collect::<Vec<_>>())
        });
        depths.collect()
    })
}

/// Progress as a sum of parts.
fn count<'a>(stage: &'static str, total: u64, report: Report<'a>) -> impl Fn(u64) + Sync + 'a {
    let done = AtomicU64::new(0);
    move |part| {
        let done = done.fetch_add(part, Ordering::Relaxed) + part;
        report(Progress { stage, done, total });
    }
}

fn source_of(kind: &str, paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
    format!("{kind} {}", names.join(", "))
}
