//! The points of parameters as one run of bytes, in memory or in a file.
//!
//! Sections follow one another, each beginning at a whole number of pages: powers, high powers (both for the prover alone), the
//! Lagrange points of the cosets, the vanishing points. Points of G1 are 64 bytes and those of G2 128, in Montgomery form
//! ([`Encoding::Montgomery`]). Where a section lies follows from the dimensions alone.

use std::fmt;

use ark_bn254::G2Affine;
use rayon::prelude::*;
use zgpu_core::blob::BYTES_PER_POINT;

use super::{BadPoint, Labels, ProverParams, Vanishing, VerifierParams, map::Map};
use crate::{
    blob::{COSETS, Dimensions},
    points::{BYTES_PER_G2_POINT, Encoding, montgomery_g2_point_bytes},
};

/// Sections begin at multiples of this.
pub(super) const BYTES_PER_PAGE: usize = 4096;

/// Whom parameters are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Lagrange and vanishing points: enough to verify.
    Verifier,
    /// The powers besides.
    Prover,
}

/// A run of points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Powers,
    HighPowers,
    Lagrange(usize),
    Vanishing,
}

/// All sections, as they follow one another.
const SECTIONS: [Section; 6] = [
    Section::Powers,
    Section::HighPowers,
    Section::Lagrange(0),
    Section::Lagrange(1),
    Section::Lagrange(2),
    Section::Vanishing,
];

impl Section {
    pub(super) fn name(self) -> &'static str {
        match self {
            Section::Powers => "powers",
            Section::HighPowers => "high powers",
            Section::Lagrange(0) => "Lagrange points of coset 0",
            Section::Lagrange(1) => "Lagrange points of coset 1",
            Section::Lagrange(_) => "Lagrange points of coset 2",
            Section::Vanishing => "vanishing points",
        }
    }
}

/// Where the sections lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) dimensions: Dimensions,
    pub(super) contents: Contents,
}

impl Layout {
    /// The sections that are there.
    pub(super) fn sections(self) -> impl Iterator<Item = Section> {
        let first = if self.contents == Contents::Prover { 0 } else { 2 };
        SECTIONS.into_iter().skip(first)
    }

    /// Bytes of a section's points.
    pub(super) fn section_bytes(self, section: Section) -> usize {
        match section {
            Section::Vanishing => COSETS * vanishing_points(self.dimensions) * BYTES_PER_G2_POINT,
            _ => self.dimensions.scalars() * BYTES_PER_POINT,
        }
    }

    /// Where a section begins.
    ///
    /// # Panics
    /// When it is not there.
    pub(super) fn offset(self, section: Section) -> usize {
        assert!(self.sections().any(|other| other == section), "there are {section:?} in {self:?}");
        let before = self.sections().take_while(|other| *other != section);
        before.map(|before| self.section_bytes(before).next_multiple_of(BYTES_PER_PAGE)).sum()
    }

    /// Bytes of all sections.
    pub(super) fn bytes(self) -> usize {
        self.sections().map(|section| self.section_bytes(section).next_multiple_of(BYTES_PER_PAGE)).sum()
    }
}

/// Vanishing points of a coset: 2^d at each depth d = 1..=lg R.
fn vanishing_points(dimensions: Dimensions) -> usize {
    2 * dimensions.rows() - 2
}

enum Bytes {
    Owned(Vec<u8>),
    /// The content begins behind a page.
    Mapped(Map),
}

/// The points.
pub(super) struct Content {
    layout: Layout,
    bytes: Bytes,
}

impl Content {
    /// Content in memory, all zeros at first.
    pub(super) fn new(layout: Layout) -> Self {
        Content { layout, bytes: Bytes::Owned(vec![0; layout.bytes()]) }
    }

    /// Content behind the first page of a file; `None` unless the file has the length that belongs to the layout.
    pub(super) fn mapped(layout: Layout, map: Map) -> Option<Self> {
        let expected = BYTES_PER_PAGE + layout.bytes();
        (map.len() == expected).then_some(Content { layout, bytes: Bytes::Mapped(map) })
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// All sections.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => &map[BYTES_PER_PAGE..],
        }
    }

    /// A section's points.
    pub(super) fn section(&self, section: Section) -> &[u8] {
        &self.bytes()[self.layout.offset(section)..][..self.layout.section_bytes(section)]
    }

    /// A section's points, to be filled in.
    ///
    /// # Panics
    /// When the content is mapped: that is read-only.
    pub(super) fn section_mut(&mut self, section: Section) -> &mut [u8] {
        let (offset, length) = (self.layout.offset(section), self.layout.section_bytes(section));
        match &mut self.bytes {
            Bytes::Owned(bytes) => &mut bytes[offset..][..length],
            Bytes::Mapped(_) => unreachable!("content is filled in before it is mapped"),
        }
    }

    /// Writes the vanishing points, and makes parameters of it all.
    pub(super) fn with_vanishing(
        mut self,
        vanishing: Vanishing,
        [g2, high_g2]: [G2Affine; 2],
        labels: Labels,
    ) -> VerifierParams {
        let places = self.section_mut(Section::Vanishing).as_chunks_mut::<BYTES_PER_G2_POINT>().0;
        let points = vanishing.iter().flatten().flatten();
        places.iter_mut().zip(points).for_each(|(place, point)| *place = montgomery_g2_point_bytes(point));
        VerifierParams { dimensions: self.layout.dimensions, content: self.into(), vanishing, g2, high_g2, labels }
    }

    /// Reads the vanishing points, and makes parameters of it all.
    pub(super) fn with_points(self, [g2, high_g2]: [G2Affine; 2], labels: Labels) -> Result<VerifierParams, BadPoint> {
        let section = Section::Vanishing;
        let read = |(index, bytes): (usize, &[u8])| {
            let bad = |fault| BadPoint { section: section.name(), index, fault };
            Encoding::Montgomery.g2(bytes).map_err(bad)
        };
        let bytes = self.section(section).par_chunks_exact(BYTES_PER_G2_POINT).enumerate();
        let points: Vec<G2Affine> = bytes.map(read).collect::<Result<_, _>>()?;
        let dimensions = self.layout.dimensions;
        let vanishing = std::array::from_fn(|coset| {
            let points = &points[coset * vanishing_points(dimensions)..];
            (1..=dimensions.lg_rows()).map(|depth| points[(1 << depth) - 2..][..1 << depth].to_vec()).collect()
        });
        Ok(VerifierParams { dimensions, content: self.into(), vanishing, g2, high_g2, labels })
    }

    /// Checks that all points of G1 are canonical and on the curve. Those of G2 always are.
    pub(super) fn check_points(&self) -> Result<(), BadPoint> {
        for section in self.layout.sections().filter(|section| *section != Section::Vanishing) {
            let points = self.section(section).par_chunks_exact(BYTES_PER_POINT).enumerate().with_min_len(1024);
            points.try_for_each(|(index, bytes)| match Encoding::Montgomery.g1(bytes) {
                Ok(_) => Ok(()),
                Err(fault) => Err(BadPoint { section: section.name(), index, fault }),
            })?;
        }
        Ok(())
    }
}

impl VerifierParams {
    /// The prover's parameters, when its points are there.
    pub(super) fn into_prover(self) -> Option<ProverParams> {
        (self.content.layout.contents == Contents::Prover).then_some(ProverParams { verifier: self })
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.is_mapped() { "mapped" } else { "in memory" };
        write!(f, "{:?}, {} bytes {place}", self.layout.contents, self.layout.bytes())
    }
}
