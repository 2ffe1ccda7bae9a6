//! Parameters from the ceremony itself: a challenge file of Perpetual Powers of Tau.
//!
//! Source: the layout of the ceremony's challenge files, uncompressed, with points up to τ^(2^n):
//!
//! | offset | content |
//! |---|---|
//! | 0 | 64 bytes: hash of the response before |
//! | 64 | [τ^j]₁ for j < 2^(n+1) - 1, 64 bytes each |
//! | 128·2^n | [τ^j]₂ for j < 2^n, 128 bytes each |
//! | 256·2^n | points with α and β, of no use here |
//! | | 384·2^n + 128 bytes in all: 103 GB with n = 28 |
//!
//! Coordinates are big-endian; in G2 c1 comes before c0. Used are N powers, the N high powers from 2^n - N on, and in G2
//! [τ^(jC)] for j < R, [τ], and the first high power: 134 MB, so a sparse file that has these [`ranges`] will do.
//!
//! The work goes on where it stopped. It is done in a work file next to the output, laid out like our own file but for the first
//! page, which lists the parts that are complete, each with its SHA-256; it is written after its part is on the
//! disk. A second run reads the list, compares the digests and does what is missing. In the end the first page becomes
//! the header and the file gets its name: whether the work was interrupted cannot be seen from it.
//!
//! The first page of a work file, integers little-endian: 8 bytes magic `zgpu-wrk`, u32 version, u32 log2 of rows, u32 log2 of
//! columns, u32 n, 32 bytes SHA-256 of the challenge's first 192 bytes (its hash, [1]₁ and [τ]₁), then for each of
//! the 35 parts one byte (1 when it is complete) and 32 bytes of digest; at 4064 the SHA-256 of the page up to there.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use zgpu_core::blob::BYTES_PER_POINT;

use super::{
    BadPoint, Labels, ParamsError, Progress, ProverParams, Report, VerifierParams, audit,
    content::{BYTES_PER_PAGE, Content, Contents, Layout, Section},
    file::{self, FileError, sync_folder},
    map::Map,
    network::{FormatError, LagrangeBases, PointReader, vanishing},
    points,
};
use crate::{
    blob::{COSETS, Dimensions},
    points::{BYTES_PER_G2_POINT, Encoding, montgomery_g2_point_bytes},
};

const MAGIC: [u8; 8] = *b"zgpu-wrk";
const VERSION: u32 = 1;
/// Bytes of the challenge that tell it from others.
const FINGERPRINT_BYTES: usize = 64 + 2 * BYTES_PER_POINT;
const HASH_BYTES: u64 = 64;
/// Parts of the powers, and of the high powers.
const PARTS_PER_SECTION: usize = 16;
const PARTS: usize = 2 * PARTS_PER_SECTION + COSETS;
const PARTS_AT: usize = 56;
const DIGEST_AT: usize = 4064;

/// Where the points of a challenge file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Challenge {
    /// n.
    power: u32,
    dimensions: Dimensions,
}

impl Challenge {
    /// n from the file's length.
    fn new(length: u64, dimensions: Dimensions) -> Result<Self, FormatError> {
        let lg_scalars = dimensions.lg_scalars();
        let fits = |power: &u32| length == (384 << power) + BYTES_PER_G2_POINT as u64;
        // The smallest has room for the high powers behind the powers.
        let smallest = (384 << (lg_scalars + 1)) + BYTES_PER_G2_POINT as u64;
        let power = (lg_scalars + 1..40).find(fits);
        let power = power.ok_or(FormatError::Challenge { actual: length, lg_scalars, smallest })?;
        Ok(Challenge { power, dimensions })
    }

    /// Where the high powers begin: 2^n - N.
    fn high_start(self) -> u64 {
        (1 << self.power) - self.dimensions.scalars() as u64
    }

    fn g1(self, exponent: u64) -> u64 {
        HASH_BYTES + exponent * BYTES_PER_POINT as u64
    }

    fn g2(self, exponent: u64) -> u64 {
        (128 << self.power) + exponent * BYTES_PER_G2_POINT as u64
    }
}

/// Bytes of a challenge file with `length` bytes that are used, in the order of the file: for fetching no more than those.
/// [τ^j]₂ is one range for j < N, although only every C-th point of it is read.
pub fn ranges(length: u64, dimensions: Dimensions) -> Result<[Range<u64>; 4], FormatError> {
    let challenge = Challenge::new(length, dimensions)?;
    let (scalars, high) = (dimensions.scalars() as u64, challenge.high_start());
    Ok([
        0..challenge.g1(scalars),
        challenge.g1(high)..challenge.g1(high + scalars),
        challenge.g2(0)..challenge.g2(scalars),
        challenge.g2(high)..challenge.g2(high + 1),
    ])
}

/// The length of the challenge file with points up to τ^(2^`power`).
pub fn challenge_bytes(power: u32) -> Option<u64> {
    384u64.checked_mul(1u64.checked_shl(power)?)?.checked_add(BYTES_PER_G2_POINT as u64)
}

/// Makes a file of our own from a challenge file and maps it: reads and checks the points, transforms three times, checks by
/// pairings. Minutes at full size, in a few hundred megabytes of memory. `path` is the challenge's name, for
/// errors and for the record. Interrupted, it goes on where it stopped when it is called again.
pub fn convert<R: Read + Seek>(
    mut challenge: R,
    path: &Path,
    dimensions: Dimensions,
    output: &Path,
    report: Report<'_>,
) -> Result<ProverParams, ParamsError> {
    let length = challenge.seek(SeekFrom::End(0)).map_err(ParamsError::io(path))?;
    let mut reader = PointReader { path: path.to_owned(), reader: challenge };
    let layout = Challenge::new(length, dimensions).map_err(|wrong| reader.foreign(wrong))?;
    let mut fingerprint = [0; FINGERPRINT_BYTES];
    reader.bytes(0, &mut fingerprint)?;

    let encoding = Encoding::BigEndian;
    let high_g2 = reader.g2(encoding, layout.g2(layout.high_start()), "[tau^high_start]_2")?;
    let tau_g2 = reader.g2(encoding, layout.g2(1), "[tau]_2")?;
    let stride = dimensions.columns() as u64;
    let strided = reader.g2_points(encoding, layout.g2(0), stride, dimensions.rows(), "powers in G2")?;

    let mut work = WorkFile::open(output, layout, Sha256::digest(fingerprint).into())?;
    for (section, first) in [(Section::Powers, 0), (Section::HighPowers, layout.high_start())] {
        work.section_parts(section, |points, bytes| {
            let start = points.start as u64;
            let total = dimensions.scalars() as u64;
            let report = |part: Progress| report(Progress { done: start + part.done, total, ..part });
            let read = reader.g1_points(encoding, layout.g1(first + start), section.name(), bytes, |j| j, &report);
            read.map_err(|error| error.moved_by(points.start))
        })?;
    }
    if work.missing().next().is_some() {
        let powers = points(&work.read(Section::Powers)?, 0..dimensions.scalars());
        let bases = LagrangeBases::new(dimensions);
        for coset in 0..COSETS {
            work.section_parts(Section::Lagrange(coset), |_, bytes| {
                bases.write(&powers, coset, bytes, report);
                Ok(())
            })?;
        }
    }
    let vanishing = vanishing(dimensions, &strided);
    work.write_vanishing(vanishing.iter().flatten().flatten().flat_map(montgomery_g2_point_bytes).collect())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let labels = Labels {
        tau_g2: Some(tau_g2),
        high_start: Some(layout.high_start()),
        source: format!("ceremony challenge {name}, 2^{} powers", layout.power),
    };
    work.finish(output, |content| content.with_points([strided[0], high_g2], labels), report)
}

/// Parts that are complete, with their digests.
type Done = [Option<[u8; 32]>; PARTS];

/// The file in which the work is done.
struct WorkFile {
    path: PathBuf,
    file: File,
    challenge: Challenge,
    fingerprint: [u8; 32],
    done: Done,
}

impl WorkFile {
    /// Opens the work file of `output`, or makes one.
    fn open(output: &Path, challenge: Challenge, fingerprint: [u8; 32]) -> Result<Self, ParamsError> {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".work");
        let path = output.with_file_name(name);
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(ParamsError::io(&path))?;
        file.try_lock().map_err(|error| ParamsError::io(&path)(error.into()))?;
        let mut work = WorkFile { path, file, challenge, fingerprint, done: [None; PARTS] };
        work.done = work.list().map_err(ParamsError::io(&work.path))?;
        work.verify()?;
        Ok(work)
    }

    fn layout(&self) -> Layout {
        Layout { dimensions: self.challenge.dimensions, contents: Contents::Prover }
    }

    /// What the first page says is complete: nothing when it is of other work, or damaged.
    fn list(&mut self) -> io::Result<Done> {
        let expected = (BYTES_PER_PAGE + self.layout().bytes()) as u64;
        let is_whole = self.file.metadata()?.len() == expected;
        // It is sparse until it is written to.
        self.file.set_len(expected)?;
        let mut page = [0; BYTES_PER_PAGE];
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_exact(&mut page)?;
        let is_ours = page[..PARTS_AT] == self.page([None; PARTS])[..PARTS_AT];
        let is_sound = Sha256::digest(&page[..DIGEST_AT])[..] == page[DIGEST_AT..];
        if !(is_whole && is_ours && is_sound) {
            return Ok([None; PARTS]);
        }
        let entry = |part: usize| &page[PARTS_AT + 33 * part..][..33];
        let digest = |part| (entry(part)[0] == 1).then(|| entry(part)[1..].try_into().expect("32 bytes"));
        Ok(std::array::from_fn(digest))
    }

    /// The first page when `done` is complete.
    fn page(&self, done: Done) -> [u8; BYTES_PER_PAGE] {
        let Challenge { power, dimensions } = self.challenge;
        let mut page = [0; BYTES_PER_PAGE];
        page[..8].copy_from_slice(&MAGIC);
        let numbers = [VERSION, dimensions.lg_rows(), dimensions.lg_columns(), power];
        page[8..24].as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
        page[24..PARTS_AT].copy_from_slice(&self.fingerprint);
        for (entry, digest) in page[PARTS_AT..].chunks_exact_mut(33).zip(done) {
            if let Some(digest) = digest {
                entry[0] = 1;
                entry[1..].copy_from_slice(&digest);
            }
        }
        let digest = Sha256::digest(&page[..DIGEST_AT]);
        page[DIGEST_AT..].copy_from_slice(&digest);
        page
    }

    /// Parts whose bytes are not what was written are done again, and all Lagrange points when powers are.
    fn verify(&mut self) -> Result<(), ParamsError> {
        for part in 0..PARTS {
            let bytes = if self.done[part].is_some() { Some(self.read_part(part)?) } else { None };
            self.done[part] =
                self.done[part].filter(|digest| bytes.is_some_and(|b| Sha256::digest(b)[..] == digest[..]));
        }
        if self.done[..PARTS_PER_SECTION].contains(&None) {
            self.done[2 * PARTS_PER_SECTION..].fill(None);
        }
        Ok(())
    }

    /// A part's section, and its points there.
    fn part(&self, part: usize) -> (Section, Range<usize>) {
        let scalars = self.challenge.dimensions.scalars();
        let size = scalars / PARTS_PER_SECTION;
        let piece = |part: usize| part * size..(part + 1) * size;
        match part {
            0..PARTS_PER_SECTION => (Section::Powers, piece(part)),
            PARTS_PER_SECTION..32 => (Section::HighPowers, piece(part - PARTS_PER_SECTION)),
            _ => (Section::Lagrange(part - 2 * PARTS_PER_SECTION), 0..scalars),
        }
    }

    fn offset(&self, section: Section) -> u64 {
        (BYTES_PER_PAGE + self.layout().offset(section)) as u64
    }

    fn missing(&self) -> impl Iterator<Item = usize> {
        (0..PARTS).filter(|part| self.done[*part].is_none())
    }

    /// Does what is missing of a section: `fill` writes the points of a range, 64 bytes each.
    fn section_parts(
        &mut self,
        section: Section,
        mut fill: impl FnMut(Range<usize>, &mut [u8]) -> Result<(), ParamsError>,
    ) -> Result<(), ParamsError> {
        let missing: Vec<usize> = self.missing().filter(|part| self.part(*part).0 == section).collect();
        for part in missing {
            let (_, points) = self.part(part);
            let mut bytes = vec![0; points.len() * BYTES_PER_POINT];
            let offset = self.offset(section) + (points.start * BYTES_PER_POINT) as u64;
            fill(points, &mut bytes)?;
            self.done[part] = Some(Sha256::digest(&bytes).into());
            let page = self.page(self.done);
            self.write(offset, &bytes).and_then(|()| self.write(0, &page)).map_err(ParamsError::io(&self.path))?;
        }
        Ok(())
    }

    fn read_part(&mut self, part: usize) -> Result<Vec<u8>, ParamsError> {
        let (section, points) = self.part(part);
        let mut bytes = vec![0; points.len() * BYTES_PER_POINT];
        let offset = self.offset(section) + (points.start * BYTES_PER_POINT) as u64;
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(ParamsError::io(&self.path))?;
        Ok(bytes)
    }

    fn read(&mut self, section: Section) -> Result<Vec<u8>, ParamsError> {
        let mut bytes = vec![0; self.layout().section_bytes(section)];
        let offset = self.offset(section);
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(ParamsError::io(&self.path))?;
        Ok(bytes)
    }

    /// Writes bytes and waits until they are on the disk.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    fn write_vanishing(&mut self, bytes: Vec<u8>) -> Result<(), ParamsError> {
        let offset = self.offset(Section::Vanishing);
        self.write(offset, &bytes).map_err(ParamsError::io(&self.path))
    }

    /// Checks the points by pairings, writes the header, and gives the file its name. Points that do not belong together are
    /// of no use, and neither is the work file then: it is removed.
    fn finish(
        mut self,
        output: &Path,
        params: impl FnOnce(Content) -> Result<VerifierParams, BadPoint>,
        report: Report<'_>,
    ) -> Result<ProverParams, ParamsError> {
        let wrong = |source: FileError| ParamsError::File { path: output.to_owned(), source };
        let map = Map::new(&self.file).map_err(ParamsError::io(&self.path))?;
        let (actual, expected) = (map.len() as u64, (BYTES_PER_PAGE + self.layout().bytes()) as u64);
        let content = Content::mapped(self.layout(), map).ok_or(wrong(FileError::Length { actual, expected }))?;
        let params = params(content).map_err(|bad| wrong(bad.into()))?;
        let params = params.into_prover().expect("the prover's points are there");
        if let Err(error) = audit::require(&params, report) {
            fs::remove_file(&self.path).map_err(ParamsError::io(&self.path))?;
            return Err(error);
        }
        let header = params.verifier().header();
        drop(params);
        self.write(0, &header.to_bytes()).map_err(ParamsError::io(&self.path))?;
        fs::rename(&self.path, output).and_then(|()| sync_folder(output)).map_err(ParamsError::io(output))?;
        ProverParams::open(output)
    }
}

const _: () = assert!(PARTS_AT + 33 * PARTS <= DIGEST_AT && file::BYTES_PER_HEADER == BYTES_PER_PAGE);
