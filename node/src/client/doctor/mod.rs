//! Says in order what keeps a node from earning, and what to do about it.
//!
//! The checks go from what everything else needs (the configuration, the chain) to what only matters once the rest is
//! right. One whose ground is missing is skipped and says so. Nothing is changed anywhere: no transaction is sent, and a
//! store is opened only when no node has it open and it belongs to this user.

mod chain;
mod machine;

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::config::{Config, ConfigErrors, Sources};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not looked at, for what another check says.
    Skipped,
    /// It works, and could be better; or it is not for the operator to change.
    Warn,
    /// It keeps the node from earning.
    Fail,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Ok => "ok",
            Outcome::Skipped => "skipped",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about; the same in every run.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found, with numbers.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Everything that was looked at, in the order in which a person would put it right.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// True when nothing fails.
    pub fn is_fine(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != Outcome::Fail)
    }

    /// The check that comes first among those that came out worst, if any is not as it should be.
    pub fn first_trouble(&self) -> Option<&Check> {
        let of = |outcome| self.checks.iter().find(|check| check.outcome == outcome);
        of(Outcome::Fail).or_else(|| of(Outcome::Warn))
    }

    /// The first check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    fn add(&mut self, name: &'static str, outcome: Outcome, found: impl Into<String>, remedy: Option<&str>) {
        let remedy = remedy.map(str::to_owned);
        self.checks.push(Check { name, outcome, found: found.into(), remedy });
    }

    fn ok(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Outcome::Ok, found, None);
    }

    fn warn(&mut self, name: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(name, Outcome::Warn, found, Some(remedy));
    }

    fn fail(&mut self, name: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(name, Outcome::Fail, found, Some(remedy));
    }

    fn skip(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Outcome::Skipped, found, None);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { name, outcome, found, remedy } in &self.checks {
            writeln!(f, "{outcome:<8} {name:<14} {found}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:<23} -> {remedy}", "")?;
            }
        }
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        let (failed, warned) = (count(Outcome::Fail), count(Outcome::Warn));
        write!(f, "{} checks, {failed} failed, {warned} with a warning", self.checks.len())?;
        match self.first_trouble() {
            Some(first) => write!(f, "; first: {}", first.name),
            None => Ok(()),
        }
    }
}

/// How patient the checks are.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// How long the chain's next block may take.
    pub block_within: Duration,
}

impl Default for DoctorOptions {
    /// 10 s for an answer, 15 s for a block.
    fn default() -> Self {
        DoctorOptions { timeout: Duration::from_secs(10), block_within: Duration::from_secs(15) }
    }
}

/// Looks at everything that a node with this configuration needs.
pub async fn examine(sources: &Sources, options: &DoctorOptions) -> Report {
    let mut report = Report { checks: Vec::new() };
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(errors) => {
            report.fail("configuration", one_line(&errors), "put it right; `zgpu node --print-config` shows all keys");
            return report;
        }
    };
    match &config.notices()[..] {
        [] => report.ok("configuration", format!("it can be read; network {}", config.network)),
        notices => report.warn("configuration", notices.join("; "), "take out what has no effect"),
    }
    let node = machine::look_at_node(&config, options).await;
    let chain = chain::check_chain(&mut report, &config, options).await;
    machine::check_device(&mut report, &config).await;
    let key = chain::check_key(&mut report, &config, chain.as_ref()).await;
    machine::check_node(&mut report, &config, &node, chain.as_ref());
    machine::check_ports(&mut report, &config, &node, options).await;
    let held = machine::check_data(&mut report, &config, &node, chain.as_ref()).await;
    chain::check_mining(&mut report, &config, chain.as_ref(), key, &held).await;
    machine::check_disk(&mut report, &config);
    machine::check_open_files(&mut report);
    report
}

/// Several errors as a part of a sentence.
fn one_line(errors: &ConfigErrors) -> String {
    errors.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
