//! What a person sees while the devnet works, on stderr: bars on a terminal, a line for each step everywhere.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What a bar counts.
#[derive(Clone, Copy)]
pub(super) enum Bar {
    Bytes,
    Count,
}

/// Prints steps as they are done.
pub(super) struct Steps {
    is_terminal: bool,
}

impl Steps {
    pub(super) fn new() -> Self {
        Steps { is_terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn done(&self, what: &str) {
        let mark = if self.is_terminal { "\x1b[32m✓\x1b[0m" } else { "-" };
        eprintln!("{mark} {what}");
    }

    pub(super) fn bar(&self, what: &str, length: u64, kind: Bar) -> ProgressBar {
        let template = match kind {
            Bar::Bytes => "  {prefix:<8} [{bar:32}] {bytes} of {total_bytes} ({bytes_per_sec})",
            Bar::Count => "  {prefix:<8} [{bar:32}] {pos} of {len} proofs accepted, {msg}",
        };
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        self.draw(ProgressBar::with_draw_target(Some(length), self.target()).with_prefix(what.to_owned()), style)
    }

    pub(super) fn spinner(&self, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("  {spinner} {prefix}").expect("the template is well-formed");
        self.draw(ProgressBar::with_draw_target(None, self.target()).with_prefix(what.to_owned()), style)
    }

    fn draw(&self, bar: ProgressBar, style: ProgressStyle) -> ProgressBar {
        bar.set_style(style.progress_chars("█▌ "));
        if self.is_terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
    }
}
