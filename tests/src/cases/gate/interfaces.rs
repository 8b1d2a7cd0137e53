//! Interfaces that come and go, that somebody else holds, and whose names make poor file names.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rekindled::gate::{Attached, Gate, GateOptions, boot_clock};

use super::{Cable, link, options};
use crate::{netns::Namespace, suite::Lab};

pub(super) fn come_and_go(lab: &mut Lab) -> Result<()> {
    let site = Namespace::new("inside")?;
    let options = options(lab, "come-and-go", &[])?;
    let mut gate = site.within(|| Gate::attach(&options))??;
    let mut look = |expected: &[(&str, Attached)]| -> Result<()> {
        let names = ["first", "second"].map(str::to_owned).to_vec();
        let changed = site.within(|| gate.stand_guard(names, boot_clock()))??;
        let seen: Vec<_> = changed
            .iter()
            .map(|one| (one.interface.as_str(), one.mode))
            .collect();
        ensure!(seen == expected, "{changed:?}");
        let again = ["first", "second"].map(str::to_owned).to_vec();
        let nothing = site.within(|| gate.stand_guard(again, boot_clock()))??;
        ensure!(nothing.is_empty(), "{nothing:?}");
        Ok(())
    };
    site.ip("link add first type veth peer name first0")?;
    look(&[("first", Attached::Native), ("second", Attached::None)])?;
    site.ip("link add second type veth peer name second0")?;
    look(&[("second", Attached::Native)])?;
    site.ip("link del first")?;
    look(&[("first", Attached::None)])?;
    site.ip("link add first type veth peer name first0")?;
    look(&[("first", Attached::Native)])?;
    let changed = site.within(|| gate.stand_guard(vec!["second".to_owned()], boot_clock()))??;
    ensure!(changed.is_empty() && gate.attachments().len() == 1);
    ensure!(!options.pin_dir.join("links/first").exists());
    gate.detach()?;
    Ok(())
}

pub(super) fn taken(lab: &mut Lab) -> Result<()> {
    let cable = Cable::lay(1500)?;
    let first = cable.attach(&options(lab, "first", &["inside"])?)?;
    let (_, program) = link(&lab.bpf().join("gate-first/links/inside"))?;
    let mut second = cable.attach(&options(lab, "second", &["inside", "nothere"])?)?;
    let [busy, missing] = second.attachments() else {
        bail!("{:?}", second.attachments());
    };
    ensure!(
        busy.mode == Attached::None && missing.mode == Attached::None,
        "{busy:?} {missing:?}"
    );
    ensure!(
        busy.reason.contains(&program.to_string()),
        "{busy:?} does not name {program}"
    );

    // It is asked again now and then, and said so only when something has changed.
    let mut after = |seconds| -> Result<_> {
        let now = boot_clock() + Duration::from_secs(seconds);
        let names = ["inside", "nothere"].map(str::to_owned).to_vec();
        Ok(cable.inside.within(|| second.stand_guard(names, now))??)
    };
    let still = after(60)?;
    ensure!(still.is_empty(), "{still:?}");
    first.detach()?;
    let soon = after(80)?;
    ensure!(soon.is_empty(), "{soon:?}");
    let later = after(100)?;
    let [free] = later.as_slice() else {
        bail!("{later:?}");
    };
    ensure!(
        free.interface == "inside" && free.mode == Attached::Native,
        "{free:?}"
    );
    second.detach()?;
    Ok(())
}

/// As VLAN interfaces have it; the file system for pins has no such names.
pub(super) fn dotted(lab: &mut Lab) -> Result<()> {
    let site = Namespace::new("inside")?;
    site.ip("link add wan.7 type veth peer name outside")?;
    let options = options(lab, "dotted", &["wan.7"])?;
    let pin = options.pin_dir.join("links/wan%2e7");
    let gate = site.within(|| Gate::attach(&options))??;
    ensure!(
        gate.attachments()[0].mode == Attached::Native,
        "{:?}",
        gate.attachments()
    );
    let (own, program) = link(&pin)?;
    drop(gate);
    // A daemon that comes after finds it, and one that is to stand elsewhere takes it away.
    let gate = site.within(|| Gate::attach(&options))??;
    let (again, swapped) = link(&pin)?;
    ensure!(again == own && swapped != program, "not swapped");
    drop(gate);
    let nowhere = GateOptions {
        interfaces: Vec::new(),
        ..options
    };
    let gate = site.within(|| Gate::attach(&nowhere))??;
    ensure!(!pin.exists(), "its pin is still there");
    let shown = site.ip("link show wan.7")?;
    ensure!(!shown.contains("xdp"), "{shown}");
    gate.detach()?;
    Ok(())
}
