//! Proof of Random Access (PoRA), the mining of the storage network: seal, draw, scan, answer, check.
//!
//! A *nonce* gives a scratch *pad* and a recall seed, the seed names a *load* (256 KiB of sealed data), and each of the
//! load's 64 *seals*, mixed with the pad and hashed, is one lottery ticket. [`plain`] says what that means, slowly;
//! every backend does the same fast, behind the traits in [`seam`]; [`engine`] is what a node uses.

pub mod answer;
mod backends;
pub mod check;
pub mod cpu;
pub mod engine;
pub mod plain;
mod prospect;
pub mod puzzle;
pub mod seam;

pub use answer::{Answer, ChainRules, Hit, Refusal, check_answer};
pub use backends::{DeviceVisitor, with_device, with_device_at};
pub use check::{CaseReport, Summary, VectorError, check_vectors};
pub use engine::{Engine, HeldLoad, LoadSource, MineCounters, MineError, devices, open};
pub use puzzle::{MineRange, Puzzle, PuzzleError, RangeError, Shard};
