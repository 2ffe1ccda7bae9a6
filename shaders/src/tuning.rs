//! How work is cut into dispatches.

use std::time::Duration;

/// Upper bounds on the pieces that work is cut into. The default takes what the device allows; smaller values serve tests,
/// and devices that are shared with a desktop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Most bytes of pads or loads that lie in one buffer; at least a load (256 KiB) is taken.
    pub binding_bytes: Option<u64>,
    /// Hits that one submission can report; at least 64, those of one load, are taken.
    /// More hits than that are found by running smaller submissions.
    pub hit_capacity: Option<u32>,
    /// Most nonces, items or seals in one submission; at least 1 is taken.
    pub submission: Option<u32>,
}

/// How many threads of work to submit at a time: enough to fill the device, little enough that a submission stays far from
/// the one or two seconds after which operating systems reset a display driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    size: u32,
    least: u32,
    most: u32,
}

/// A full submission faster than this may grow.
const SHORT: Duration = Duration::from_millis(60);
/// A submission slower than this must shrink.
const LONG: Duration = Duration::from_millis(250);

impl Pace {
    pub(crate) fn new(start: u32, least: u32, most: u32) -> Self {
        let most = most.max(1);
        Self { size: start.clamp(1, most), least: least.clamp(1, most), most }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    pub(crate) fn most(&self) -> u32 {
        self.most
    }

    /// Takes note that a submission of `count` took `elapsed`.
    pub(crate) fn note(&mut self, count: u32, elapsed: Duration) {
        if elapsed > LONG {
            self.size = (self.size / 2).max(self.least);
        } else if count == self.size && elapsed < SHORT {
            self.size = self.size.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_grows_when_short_shrinks_when_long_and_keeps_its_bounds() {
        let mut pace = Pace::new(64, 16, 200);
        pace.note(64, Duration::from_millis(1));
        assert_eq!(pace.size(), 128);
        pace.note(100, Duration::from_millis(1));
        assert_eq!(pace.size(), 128, "a part-filled submission says nothing about a full one");
        pace.note(128, Duration::from_millis(1));
        assert_eq!(pace.size(), 200);
        for _ in 0..10 {
            pace.note(1, Duration::from_secs(1));
        }
        assert_eq!(pace.size(), 16);
        assert_eq!(Pace::new(64, 16, 0).size(), 1);
    }
}
