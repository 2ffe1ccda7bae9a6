//! The quotients of all nodes: NTTs of points of G1, all cosets and depths together.
//!
//! Depth d of coset k is an NTT of the 2^d terms c_k^(mu)·2^-d·B(d,u), moved on by one place (see [`crate::commit`]).
//! Decimation in frequency takes them in natural order and leaves the results with the bits of their index reversed,
//! which is the order of the tree's nodes.

use ark_bn254::{Fq, G1Projective};
use ark_ff::{AdditiveGroup, Field, One, PrimeField, Zero};
use ark_poly::EvaluationDomain;
use rayon::prelude::*;

use super::{kernels::Projective, lanes::Words, simd::Simd};
use crate::{
    blob::{COSETS, Dimensions},
    extend::{coset_shift, domain},
};

/// Points that one call works at.
const POINTS_PER_CHUNK: usize = 32;

/// The factors and the order of all butterflies, which depend on the dimensions alone.
pub(super) struct Quotients {
    lg_rows: u32,
    /// For each point, in the order of the results: c_k^(mu)·2^-d of the block that comes to its place.
    factors: Vec<Words>,
    /// Stage by stage.
    stages: Vec<Stage>,
}

/// Butterflies (a, b) -> (a + b, w·(a - b)) of independent pairs of points.
struct Stage {
    pairs: Vec<[u32; 2]>,
    /// w of the first pairs; it is 1 for the others.
    factors: Vec<Words>,
}

/// Where the nodes of a depth (1..=lg R) of a coset begin.
pub(super) fn first_node(lg_rows: u32, coset: usize, depth: u32) -> usize {
    coset * nodes_per_coset(lg_rows) + (1 << depth) - 2
}

/// Nodes of one coset's tree below the root.
pub(super) fn nodes_per_coset(lg_rows: u32) -> usize {
    (2 << lg_rows) - 2
}

impl Quotients {
    pub(super) fn new(dimensions: Dimensions) -> Self {
        let lg_rows = dimensions.lg_rows();
        let mut factors = vec![[0; 4]; COSETS * nodes_per_coset(lg_rows)];
        // Per stage: pairs with their factors, and those whose factor is 1.
        let mut turned: Vec<Vec<([u32; 2], Words)>> = vec![Vec::new(); lg_rows as usize];
        let mut plain: Vec<Vec<[u32; 2]>> = vec![Vec::new(); lg_rows as usize];
        for coset in 0..COSETS {
            for depth in 1..=lg_rows {
                let (first, size) = (first_node(lg_rows, coset, depth), 1usize << depth);
                let roots = domain(depth);
                let shift = coset_shift(dimensions, coset).pow([(dimensions.scalars() >> depth) as u64]);
                let mut factor = roots.size_inv;
                for block in 0..size {
                    factors[first + (block + 1) % size] = factor.into_bigint().0;
                    factor *= shift;
                }
                for stage in 0..depth as usize {
                    let half = size >> 1 >> stage;
                    for at in (0..size).filter(|at| at & half == 0) {
                        let pair = [(first + at) as u32, (first + at + half) as u32];
                        match (at % half) << stage {
                            0 => plain[stage].push(pair),
                            exponent => turned[stage].push((pair, roots.element(exponent).into_bigint().0)),
                        }
                    }
                }
            }
        }
        let stages = turned.into_iter().zip(plain).map(|(turned, plain)| {
            let (mut pairs, factors): (Vec<_>, Vec<_>) = turned.into_iter().unzip();
            pairs.extend(plain);
            Stage { pairs, factors }
        });
        Quotients { lg_rows, factors, stages: stages.collect() }
    }

    /// Quotients of all nodes, by coset, depth and node. `blocks` are B(d,u) by depth d = 1..=lg R and u.
    pub(super) fn run(&self, simd: Simd, blocks: &[G1Projective]) -> Vec<G1Projective> {
        let blocks = import(simd, blocks);
        let mut points: Vec<Projective> = vec![[[0; 4]; 3]; COSETS * blocks.len()];
        for coset in 0..COSETS {
            for depth in 1..=self.lg_rows {
                let size = 1usize << depth;
                let into = &mut points[first_node(self.lg_rows, coset, depth)..][..size];
                into.copy_from_slice(&blocks[first_node(self.lg_rows, 0, depth)..][..size]);
                into.rotate_right(1);
            }
        }
        points
            .par_chunks_mut(POINTS_PER_CHUNK)
            .zip(self.factors.par_chunks(POINTS_PER_CHUNK))
            .for_each(|(points, factors)| simd.scale(points, factors));
        for stage in &self.stages {
            let mut pairs: Vec<[Projective; 2]> =
                stage.pairs.iter().map(|pair| pair.map(|at| points[at as usize])).collect();
            pairs.par_chunks_mut(POINTS_PER_CHUNK).for_each(|pairs| simd.cross(pairs));
            let mut turned: Vec<Projective> = pairs[..stage.factors.len()].iter().map(|[_, b]| *b).collect();
            turned
                .par_chunks_mut(POINTS_PER_CHUNK)
                .zip(stage.factors.par_chunks(POINTS_PER_CHUNK))
                .for_each(|(points, factors)| simd.scale(points, factors));
            pairs.iter_mut().zip(turned).for_each(|(pair, turned)| pair[1] = turned);
            for (places, pair) in stage.pairs.iter().zip(pairs) {
                places.iter().zip(pair).for_each(|(place, point)| points[*place as usize] = point);
            }
        }
        export(simd, &points)
    }
}

/// Points of the curve library, which are X/Z² : Y/Z³, in homogeneous coordinates.
fn import(simd: Simd, points: &[G1Projective]) -> Vec<Projective> {
    let homogeneous = |point: &G1Projective| match point.z.is_zero() {
        true => [Fq::ZERO, Fq::one(), Fq::ZERO],
        false => [point.x * point.z, point.y, point.z.square() * point.z],
    };
    let elements: Vec<Fq> = points.iter().flat_map(homogeneous).collect();
    let mut words: Vec<Words> = vec![[0; 4]; elements.len()];
    simd.import(&elements, &mut words);
    words.as_chunks::<3>().0.to_vec()
}

/// The inverse of `import`.
fn export(simd: Simd, points: &[Projective]) -> Vec<G1Projective> {
    let mut elements = vec![Fq::ZERO; 3 * points.len()];
    simd.export(points.as_flattened(), &mut elements);
    let jacobian = |[x, y, z]: &[Fq; 3]| match z.is_zero() {
        true => G1Projective::zero(),
        false => G1Projective::new_unchecked(*x * z, *y * z.square(), *z),
    };
    elements.as_chunks::<3>().0.iter().map(jacobian).collect()
}
