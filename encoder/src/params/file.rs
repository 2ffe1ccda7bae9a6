//! Our own file of parameters: ready as soon as it is mapped.
//!
//! The first page is the header, all integers little-endian; the sections follow, each at a whole number of pages:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `zgpu-amt` |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | contents: 1 for a verifier, 2 for a prover |
//! | 16 | 4 + 4 | log2 of rows, of columns |
//! | 24 | 8 | where the high powers begin; 2^64 - 1 when that is not known |
//! | 32 | 8 | bytes of the file |
//! | 40 | 32 | SHA-256 of everything behind the header |
//! | 72 | 3 x 128 | \[1\]₂, [τ^high_start]₂, [τ]₂ or zeros when that is not known: x.c0, x.c1, y.c0, y.c1 in Montgomery form |
//! | 456 | 4 | bytes of the source, at most 1024 |
//! | 460 | | the source: where the parameters come from, UTF-8; then zeros |
//! | 4064 | 32 | SHA-256 of the header up to here |
//!
//! Sections: N powers, N high powers (both for a prover alone), for each coset N Lagrange points (R rows of C), for each coset
//! and depth d = 1..=lg R the 2^d vanishing points. G1: x, y; G2: x.c0, x.c1, y.c0, y.c1; Montgomery form,
//! 32 bytes a coordinate. 336,334,848 bytes at full size.
//!
//! Opening reads the header and the vanishing points and checks them; it takes the points of G1 on trust, as the machine's
//! own file, and [`VerifierParams::check_content`] compares the digest and checks every point.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ark_bn254::G2Affine;
use sha2::{Digest, Sha256};

use super::{
    BadPoint, Labels, ParamsError, ProverParams, VerifierParams,
    content::{BYTES_PER_PAGE, Content, Contents, Layout},
    map::Map,
};
use crate::{
    blob::{Dimensions, DimensionsError},
    points::{BYTES_PER_G2_POINT, Encoding, PointError, montgomery_g2_point_bytes},
};

/// How names of our own files end.
pub const EXTENSION: &str = "zgpu";
/// How every file of our own begins.
pub const MAGIC: [u8; 8] = *b"zgpu-amt";
const VERSION: u32 = 1;
const UNKNOWN_HIGH_START: u64 = u64::MAX;

/// Bytes of the header.
pub const BYTES_PER_HEADER: usize = BYTES_PER_PAGE;
/// Longest source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 1024;
const POINTS_AT: usize = 72;
const SOURCE_AT: usize = POINTS_AT + 3 * BYTES_PER_G2_POINT;
const DIGEST_AT: usize = 4064;

/// What is wrong with a file of our own.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// It begins otherwise.
    #[error("no file of parameters: it begins with {actual:02x?}, expected {MAGIC:02x?}")]
    Magic {
        /// Its first bytes.
        actual: [u8; 8],
    },
    /// It is shorter than a header.
    #[error("no file of parameters: it has {actual} bytes, expected at least {BYTES_PER_HEADER}")]
    Short {
        /// Its length.
        actual: u64,
    },
    /// It is of another version.
    #[error("version {actual}, expected {VERSION}: convert the parameters anew")]
    Version {
        /// Its version.
        actual: u32,
    },
    /// The header is damaged.
    #[error("the header is damaged: its SHA-256 is {actual}, expected {expected}")]
    HeaderDigest {
        /// What it is.
        actual: String,
        /// What the header says.
        expected: String,
    },
    /// The contents are none that are known.
    #[error("contents of kind {actual}, expected 1 (verifier) or 2 (prover)")]
    Contents {
        /// What the header says.
        actual: u32,
    },
    /// The matrix has a size that does not work.
    #[error(transparent)]
    Dimensions(#[from] DimensionsError),
    /// The file has another length.
    #[error("{actual} bytes, expected {expected}")]
    Length {
        /// Its length, or what the header says of it.
        actual: u64,
        /// What belongs to the dimensions.
        expected: u64,
    },
    /// A point of the header is none.
    #[error("{name} in the header: {fault}")]
    Point {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        fault: PointError,
    },
    /// The source is too long, or no text.
    #[error("the source has {actual} bytes, expected at most {MAX_SOURCE_BYTES} of UTF-8 text")]
    Source {
        /// Its length.
        actual: usize,
    },
    /// The content is damaged.
    #[error("the content is damaged: its SHA-256 is {actual}, expected {expected}")]
    ContentDigest {
        /// What it is.
        actual: String,
        /// What the header says.
        expected: String,
    },
    /// A point is none.
    #[error(transparent)]
    BadPoint(#[from] BadPoint),
    /// It is for a verifier.
    #[error("these parameters are for verification; encoding needs a prover's")]
    VerifierOnly,
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whom the parameters are for.
    pub contents: Contents,
    /// Size of the matrix.
    pub dimensions: Dimensions,
    /// Where the high powers begin, if that is known.
    pub high_start: Option<u64>,
    /// SHA-256 of everything behind the header.
    pub content_digest: [u8; 32],
    /// \[1\]₂.
    pub g2: G2Affine,
    /// [τ^high_start]₂.
    pub high_g2: G2Affine,
    /// [τ]₂, if it is known.
    pub tau_g2: Option<G2Affine>,
    /// Where the parameters come from.
    pub source: String,
}

impl Header {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        (BYTES_PER_HEADER + self.layout().bytes()) as u64
    }

    fn layout(&self) -> Layout {
        Layout { dimensions: self.dimensions, contents: self.contents }
    }

    /// The first page of the file. A source that is too long is cut short.
    pub fn to_bytes(&self) -> [u8; BYTES_PER_HEADER] {
        let mut bytes = [0; BYTES_PER_HEADER];
        let contents: u32 = if self.contents == Contents::Prover { 2 } else { 1 };
        bytes[..8].copy_from_slice(&MAGIC);
        let numbers = [VERSION, contents, self.dimensions.lg_rows(), self.dimensions.lg_columns()];
        bytes[8..24]
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(numbers)
            .for_each(|(bytes, number)| *bytes = number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.high_start.unwrap_or(UNKNOWN_HIGH_START).to_le_bytes());
        bytes[32..40].copy_from_slice(&self.file_bytes().to_le_bytes());
        bytes[40..72].copy_from_slice(&self.content_digest);
        let points = [Some(self.g2), Some(self.high_g2), self.tau_g2];
        let places = bytes[POINTS_AT..SOURCE_AT].as_chunks_mut().0.iter_mut();
        places
            .zip(points)
            .for_each(|(place, point)| *place = point.map_or([0; 128], |p| montgomery_g2_point_bytes(&p)));
        let source = &self.source[..self.source.floor_char_boundary(MAX_SOURCE_BYTES)];
        bytes[SOURCE_AT..][..4].copy_from_slice(&(source.len() as u32).to_le_bytes());
        bytes[SOURCE_AT + 4..][..source.len()].copy_from_slice(source.as_bytes());
        let digest = Sha256::digest(&bytes[..DIGEST_AT]);
        bytes[DIGEST_AT..].copy_from_slice(&digest);
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; refuses everything else.
    pub fn from_bytes(bytes: &[u8; BYTES_PER_HEADER]) -> Result<Self, FileError> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let long = |at: usize| u64::from(word(at + 4)) << 32 | u64::from(word(at));
        let actual = bytes[..8].try_into().expect("8 bytes");
        if actual != MAGIC {
            return Err(FileError::Magic { actual });
        }
        if word(8) != VERSION {
            return Err(FileError::Version { actual: word(8) });
        }
        let digest = Sha256::digest(&bytes[..DIGEST_AT]);
        if digest[..] != bytes[DIGEST_AT..] {
            return Err(FileError::HeaderDigest { actual: hex(&digest), expected: hex(&bytes[DIGEST_AT..]) });
        }
        let contents = match word(12) {
            1 => Contents::Verifier,
            2 => Contents::Prover,
            actual => return Err(FileError::Contents { actual }),
        };
        let dimensions = Dimensions::new(word(16), word(20))?;
        let expected = (BYTES_PER_HEADER + Layout { dimensions, contents }.bytes()) as u64;
        if long(32) != expected {
            return Err(FileError::Length { actual: long(32), expected });
        }
        let (points, _) = bytes[POINTS_AT..SOURCE_AT].as_chunks::<BYTES_PER_G2_POINT>();
        let point =
            |at: usize, name| Encoding::Montgomery.g2(&points[at]).map_err(|fault| FileError::Point { name, fault });
        let length = word(SOURCE_AT) as usize;
        let source = bytes[SOURCE_AT + 4..DIGEST_AT].get(..length).filter(|source| source.len() <= MAX_SOURCE_BYTES);
        let source = source.and_then(|source| str::from_utf8(source).ok());
        Ok(Header {
            contents,
            dimensions,
            high_start: Some(long(24)).filter(|start| *start != UNKNOWN_HIGH_START),
            content_digest: bytes[40..72].try_into().expect("32 bytes"),
            g2: point(0, "[1]_2")?,
            high_g2: point(1, "[tau^high_start]_2")?,
            tau_g2: if points[2] == [0; BYTES_PER_G2_POINT] { None } else { Some(point(2, "[tau]_2")?) },
            source: source.ok_or(FileError::Source { actual: length })?.to_owned(),
        })
    }

    /// Reads the header of a file, and compares the file's length with it.
    pub fn read(path: &Path) -> Result<Self, ParamsError> {
        Self::of(path, &File::open(path).map_err(ParamsError::io(path))?)
    }

    fn of(path: &Path, mut file: &File) -> Result<Self, ParamsError> {
        let wrong = |source| ParamsError::File { path: path.to_owned(), source };
        let actual = file.metadata().map_err(ParamsError::io(path))?.len();
        let mut bytes = [0; BYTES_PER_HEADER];
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(wrong(FileError::Short { actual }));
            }
            Err(error) => return Err(ParamsError::io(path)(error)),
        }
        let header = Self::from_bytes(&bytes).map_err(wrong)?;
        let expected = header.file_bytes();
        if actual != expected { Err(wrong(FileError::Length { actual, expected })) } else { Ok(header) }
    }
}

impl ProverParams {
    /// Maps a file of our own into memory. See [`mod@super::file`] for what is checked.
    pub fn open(path: &Path) -> Result<Self, ParamsError> {
        let wrong = |source| ParamsError::File { path: path.to_owned(), source };
        VerifierParams::open(path)?.into_prover().ok_or_else(|| wrong(FileError::VerifierOnly))
    }

    /// Writes a file of our own. It has its name only when it is complete and on the disk.
    pub fn save(&self, path: &Path) -> Result<(), ParamsError> {
        self.verifier.save(path)
    }
}

impl VerifierParams {
    /// Maps a file of our own into memory: a verifier's, or a prover's. See [`mod@super::file`] for what is checked.
    pub fn open(path: &Path) -> Result<Self, ParamsError> {
        let wrong = |source| ParamsError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(ParamsError::io(path))?;
        let header = Header::of(path, &file)?;
        let map = Map::new(&file).map_err(ParamsError::io(path))?;
        let actual = map.len() as u64;
        let content = Content::mapped(header.layout(), map)
            .ok_or_else(|| wrong(FileError::Length { actual, expected: header.file_bytes() }))?;
        let labels = Labels { tau_g2: header.tau_g2, high_start: header.high_start, source: header.source };
        content.with_points([header.g2, header.high_g2], labels).map_err(|bad| wrong(bad.into()))
    }

    /// Writes a file of our own. It has its name only when it is complete and on the disk.
    pub fn save(&self, path: &Path) -> Result<(), ParamsError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let written = self.write(&part).and_then(|()| fs::rename(&part, path));
        if let Err(error) = written {
            // What is left of it has no use; that it cannot be removed either says nothing new.
            drop(fs::remove_file(&part));
            return Err(ParamsError::io(path)(error));
        }
        sync_folder(path).map_err(ParamsError::io(path))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(&self.header().to_bytes())?;
        file.write_all(self.content.bytes())?;
        file.sync_all()
    }

    /// What the header of a file with these parameters says.
    pub fn header(&self) -> Header {
        let Layout { dimensions, contents } = self.content.layout();
        Header {
            contents,
            dimensions,
            high_start: self.labels.high_start,
            content_digest: Sha256::digest(self.content.bytes()).into(),
            g2: self.g2,
            high_g2: self.high_g2,
            tau_g2: self.labels.tau_g2,
            source: self.labels.source.clone(),
        }
    }

    /// Compares the content with the digest of the `header` it came with, and checks that all points are canonical and on the
    /// curve. A second or two at full size.
    pub fn check_content(&self, header: &Header) -> Result<(), FileError> {
        let digest = Sha256::digest(self.content.bytes());
        if digest[..] != header.content_digest[..] {
            return Err(FileError::ContentDigest { actual: hex(&digest), expected: hex(&header.content_digest) });
        }
        Ok(self.content.check_points()?)
    }
}

/// Puts a new name on the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(&PathBuf::from(".")))?.sync_all()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
