//! Parameters of the commitment scheme: powers of a secret τ in the exponent, for the prover and for the verifier.
//!
//! Source: the AMT commitment scheme of the network's DA encoder, over BN254. They come from
//! - a file of our own ([`mod@file`]): mapped into memory, ready at once;
//! - files of the network ([`network`]): prover, verifier and power files, in both of their encodings;
//! - the challenge file of the ceremony behind them ([`ceremony`]);
//! - a τ that somebody knows ([`tau`]), for tests.
//!
//! [`audit`] checks by pairings that all points belong together; [`deployed`] knows the files that the network uses.
//! With N scalars in a matrix, the prover has 5N points: 335 MB at full size, once, as bytes in the form that devices take.

pub mod audit;
pub mod ceremony;
mod content;
pub mod deployed;
pub mod file;
mod map;
pub mod network;
pub mod tau;
mod transform;

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use ark_bn254::{G1Affine, G2Affine};
use rayon::prelude::*;
use zgpu_core::blob::{BYTES_PER_POINT, ProverBases};

use self::content::{Content, Section};
use crate::{
    blob::{COSETS, Dimensions, DimensionsError},
    points::{PointError, montgomery_point_unchecked},
};

pub use self::content::Contents;

/// Where the high powers of the network's parameters begin: 2^28 - 2^20, so that no polynomial of degree N and above
/// has a high commitment in the powers of the ceremony.
pub const DEPLOYED_HIGH_START: u64 = (1 << 28) - (1 << 20);

/// What a verifier needs. Equal parameters have equal points; where they come from is not compared.
#[derive(Clone)]
pub struct VerifierParams {
    pub(crate) dimensions: Dimensions,
    /// The Lagrange points, and the prover's points if they are there.
    content: Arc<Content>,
    /// Per coset and depth d = 1..=lg R: [V(τ/c_k)]₂ for each of the 2^d nodes, V vanishing outside the node's rows.
    pub(crate) vanishing: Vanishing,
    /// \[1\]₂.
    pub(crate) g2: G2Affine,
    /// [τ^high_start]₂.
    pub(crate) high_g2: G2Affine,
    pub(crate) labels: Labels,
}

/// Per coset and depth d = 1..=lg R, the 2^d points of the nodes.
pub(crate) type Vanishing = [Vec<Vec<G2Affine>>; COSETS];

/// What is known of the parameters besides what proofs and their verification use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels {
    /// [τ]₂: lets [`audit`] relate all powers. The network's prover and verifier files lack it.
    pub(crate) tau_g2: Option<G2Affine>,
    pub(crate) high_start: Option<u64>,
    pub(crate) source: String,
}

/// What the prover needs: 5N points of G1, 335 MB at full size, and the verifier's. Equal parameters have equal points;
/// where they come from is not compared.
#[derive(Clone)]
pub struct ProverParams {
    pub(crate) verifier: VerifierParams,
}

/// Why parameters cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// τ is zero or a root of unity: polynomials that must not vanish there do.
    #[error("tau is zero or a 2^{lg_order}-th root of unity")]
    Tau {
        /// log2 of the order.
        lg_order: u32,
    },
    /// A τ in words is no scalar.
    #[error("tau has {characters} characters, expected 64 hex digits of a number below the group order")]
    TauText {
        /// Its length.
        characters: usize,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of our own is not as it should be.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: file::FileError,
    },
    /// A file of the network, or of the ceremony, is not as it should be.
    #[error("{}: {source}", path.display())]
    Foreign {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: network::FormatError,
    },
    /// Files that should be of one set are not.
    #[error("{} and {}: {what} differs, so they are not of one set", first.display(), second.display())]
    Set {
        /// One file.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// What they should share.
        what: &'static str,
    },
    /// A folder has no parameters, or more than one set.
    #[error("{}: {reason}", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What is there and what should be.
        reason: String,
    },
    /// Points do not belong together.
    #[error("a check by pairings failed: {0}")]
    Audit(audit::Relation),
    /// The matrix has a size that does not work.
    #[error(transparent)]
    Dimensions(#[from] DimensionsError),
}

impl ParamsError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| ParamsError::Io { path, source }
    }

    /// The same with the place of a bad point counted from `first` points before.
    fn moved_by(mut self, first: usize) -> Self {
        if let ParamsError::Foreign { source: network::FormatError::Point(bad), .. } = &mut self {
            bad.index += first;
        }
        self
    }
}

/// How far long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// All of it.
    pub total: u64,
}

/// Is told how far long work is, from any thread.
pub type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// Reports nothing.
pub fn silent(_: Progress) {}

/// A point of parameters is none.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("point {index} of the {section}: {fault}")]
pub struct BadPoint {
    /// Which points.
    pub section: &'static str,
    /// Its place among them.
    pub index: usize,
    /// What is wrong with it.
    pub fault: PointError,
}

impl ProverParams {
    /// The points as devices take them, without a copy.
    pub fn bases(&self) -> ProverBases<'_> {
        let content = &self.verifier.content;
        ProverBases {
            dimensions: self.dimensions(),
            powers: content.section(Section::Powers),
            high_powers: content.section(Section::HighPowers),
            lagrange: std::array::from_fn(|coset| content.section(Section::Lagrange(coset))),
        }
    }

    /// Size of the matrix they are for.
    pub fn dimensions(&self) -> Dimensions {
        self.verifier.dimensions
    }

    /// The verifier's part; it shares the points.
    pub fn verifier(&self) -> &VerifierParams {
        &self.verifier
    }

    /// [τ^j]₁ for j in `range`, which is within N.
    pub(crate) fn powers(&self, range: Range<usize>) -> Vec<G1Affine> {
        points(self.bases().powers, range)
    }

    /// [τ^(high_start+j)]₁ for j in `range`, which is within N.
    pub(crate) fn high_powers(&self, range: Range<usize>) -> Vec<G1Affine> {
        points(self.bases().high_powers, range)
    }

    /// Where they come from, in words.
    pub fn source(&self) -> &str {
        &self.verifier.labels.source
    }

    /// Where the high powers begin, if that is known. The network's prover and verifier files do not say it, and nothing
    /// in them can show it.
    pub fn high_start(&self) -> Option<u64> {
        self.verifier.labels.high_start
    }

    /// Whether the points lie in a file that is mapped into memory, and not in memory of their own.
    pub fn is_mapped(&self) -> bool {
        self.verifier.content.is_mapped()
    }
}

impl VerifierParams {
    /// Size of the matrix they are for.
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The C Lagrange points of encoded row `index`, which is below 3R.
    pub(crate) fn row(&self, index: usize) -> Vec<G1Affine> {
        let (rows, columns) = (self.dimensions.rows(), self.dimensions.columns());
        let first = index % rows * columns;
        self.lagrange(index / rows, first..first + columns)
    }

    /// [L_i(τ/c_k)]₁ of the Lagrange polynomials of a coset's points, R rows of C like the coset's scalars.
    pub(crate) fn lagrange(&self, coset: usize, range: Range<usize>) -> Vec<G1Affine> {
        points(self.content.section(Section::Lagrange(coset)), range)
    }
}

/// Points from their bytes.
fn points(bytes: &[u8], range: Range<usize>) -> Vec<G1Affine> {
    let bytes = &bytes[range.start * BYTES_PER_POINT..range.end * BYTES_PER_POINT];
    let points = bytes.par_chunks_exact(BYTES_PER_POINT).with_min_len(4096).map(montgomery_point_unchecked);
    points.collect()
}

impl PartialEq for VerifierParams {
    fn eq(&self, other: &Self) -> bool {
        self.dimensions == other.dimensions
            && (self.g2, self.high_g2) == (other.g2, other.high_g2)
            && self.vanishing == other.vanishing
            && (0..COSETS)
                .map(Section::Lagrange)
                .all(|section| self.content.section(section) == other.content.section(section))
    }
}

impl Eq for VerifierParams {}

impl PartialEq for ProverParams {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.bases(), other.bases());
        self.verifier == other.verifier && (ours.powers, ours.high_powers) == (theirs.powers, theirs.high_powers)
    }
}

impl Eq for ProverParams {}

impl fmt::Debug for VerifierParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierParams")
            .field("dimensions", &self.dimensions)
            .field("content", &self.content)
            .field("high_start", &self.labels.high_start)
            .field("source", &self.labels.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProverParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProverParams").field(&self.verifier).finish()
    }
}

/// Parameters from `path`: a file of our own, a folder with one of them, or a folder with the network's three prover files
/// `amt-prove-coset{0,1,2}-…`, preferably the `mont` ones. Our own file is ready at once; the network's are converted
/// and checked in memory, for some minutes at full size: `zgpu params import` does so once and for all.
pub fn load_dir(path: &Path) -> Result<ProverParams, ParamsError> {
    load_dir_with(path, &silent)
}

/// [`load_dir`], with progress.
pub fn load_dir_with(path: &Path, report: Report<'_>) -> Result<ProverParams, ParamsError> {
    if path.is_file() {
        return ProverParams::open(path);
    }
    let refuse = |reason: String| Err(ParamsError::Folder { path: path.to_owned(), reason });
    let files = network::list(path)?;
    let own: Vec<&PathBuf> =
        files.iter().filter(|file| file.extension().is_some_and(|extension| extension == file::EXTENSION)).collect();
    match own[..] {
        [one] => return ProverParams::open(one),
        [] => {}
        _ => return refuse(format!("{} files end in .{}, expected one", own.len(), file::EXTENSION)),
    }
    match network::prover_set(&files) {
        Ok(set) => {
            let params = network::import_prover(&set, None, report)?;
            audit::require(&params, report)?;
            Ok(params)
        }
        Err(reason) => refuse(format!("there is no file that ends in .{}, and {reason}", file::EXTENSION)),
    }
}
