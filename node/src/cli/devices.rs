//! `zgpu devices`.

use std::{fmt::Write, process::ExitCode};

use serde::Serialize;
use zgpu_core::device::{BackendChoice, DeviceInfo, UnusableDevice};

use crate::devnet::report::bytes;

#[derive(Serialize)]
struct Devices {
    usable: Vec<DeviceInfo>,
    unusable: Vec<UnusableDevice>,
    /// What `--backend auto` opens.
    auto: Option<DeviceInfo>,
}

pub(super) fn run(json: bool) -> anyhow::Result<ExitCode> {
    let (usable, unusable) = zgpu_miner::devices();
    let auto = zgpu_miner::open(BackendChoice::Auto).ok().map(|engine| engine.info().clone());
    let devices = Devices { usable, unusable, auto };
    if json {
        super::print_json(&devices)?;
    } else {
        super::print(table(&devices)?.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(devices: &Devices) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "Usable")?;
    for device in &devices.usable {
        let kind = if device.software { " (software adapter: a CPU emulates it; auto never takes it)" } else { "" };
        writeln!(text, "  {}:{}  {}{kind}", device.backend, device.index, device.name)?;
        let mut facts = vec![device.level.clone(), device.driver.clone()];
        if device.compute_units > 0 {
            facts.push(format!("{} compute units", device.compute_units));
        }
        if device.memory_bytes > 0 {
            facts.push(bytes(device.memory_bytes));
        }
        facts.retain(|fact| !fact.is_empty());
        writeln!(text, "          {}", facts.join(" · "))?;
    }
    if let Some(auto) = &devices.auto {
        writeln!(text, "  --backend auto takes {}:{}  {}", auto.backend, auto.index, auto.name)?;
    }
    if !devices.unusable.is_empty() {
        writeln!(text, "\nNot usable")?;
    }
    for device in &devices.unusable {
        writeln!(text, "  {}  {}", device.backend, device.name)?;
        writeln!(text, "          why: {}", device.reason)?;
        writeln!(text, "          do:  {}", device.remedy)?;
    }
    Ok(text)
}
