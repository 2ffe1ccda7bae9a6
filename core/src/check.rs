//! What a check of a vector file reports, whatever the vectors are about.

use std::{fmt, ops::AddAssign};

/// A value that differs from the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which value.
    pub what: String,
    /// The file's.
    pub expected: String,
    /// Ours.
    pub got: String,
}

/// What came of one case. Shown as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    /// Tells the case apart from others.
    pub title: String,
    /// Values that differ; none if the case passed.
    pub mismatches: Vec<Mismatch>,
}

impl CaseReport {
    /// True when every value was equal.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.mismatches.first() else {
            return write!(f, "{}: passed", self.title);
        };
        let Mismatch { what, expected, got } = first;
        write!(f, "{}: FAILED: {what} is {got}, expected {expected}", self.title)?;
        match self.mismatches.len() - 1 {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

/// Counts of one file or, added up, of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases in which every value was equal.
    pub passed: usize,
    /// Cases in which one was not.
    pub failed: usize,
}

impl Summary {
    /// Counts one case.
    pub fn count(&mut self, case: &CaseReport) {
        if case.passed() {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}
