//! A kernel as simple as can be: which states and policies there would be after all that was asked of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ike::kernel::{ChildInstall, KernelFailed, KernelOp, flows};

/// What the kernel would have.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    /// What the policies of an owner lead to.
    pub(crate) installed: BTreeMap<Arc<str>, ChildInstall>,
    /// Other states of an owner, by our inbound SPI. They receive too.
    pub(crate) beside: BTreeMap<u32, ChildInstall>,
    pub(crate) blocked: HashSet<Arc<str>>,
    /// Owners whose packets are reported, and the address of their peer.
    pub(crate) trapped: BTreeMap<Arc<str>, IpAddr>,
    pub(crate) fail_next: bool,
    /// Moves nothing.
    pub(crate) unmovable: bool,
    pub(crate) ops: usize,
    /// Who was released, and who was blocked or installed then besides.
    pub(crate) released: Vec<(Arc<str>, BTreeSet<Arc<str>>)>,
}

impl Kernel {
    pub(crate) fn apply(&mut self, what: KernelOp) -> Result<(), KernelFailed> {
        self.ops += 1;
        if let KernelOp::Install(install) | KernelOp::Add(install) = &what {
            let flows = flows::count(&install.local_ts, &install.remote_ts);
            assert!((1..=flows::MAX_FLOWS).contains(&flows), "{flows} flows");
        }
        match what {
            KernelOp::Install(_) | KernelOp::Add(_) if std::mem::take(&mut self.fail_next) => {
                return Err(KernelFailed {
                    text: "no such algorithm".into(),
                });
            }
            KernelOp::Move { .. } if self.unmovable => {
                return Err(KernelFailed {
                    text: "moving an SA: File exists".into(),
                });
            }
            KernelOp::Add(install) => {
                self.beside.insert(install.inbound.spi, *install);
            }
            KernelOp::Lead {
                owner, outbound, ..
            } => {
                let present = self.installed.get(&owner.0);
                if present.is_none_or(|present| present.outbound.spi != outbound) {
                    let is_it = |_: &u32, other: &mut ChildInstall| other.outbound.spi == outbound;
                    let found = self.beside.extract_if(.., is_it).next();
                    let (_, next) = found.expect("policies lead to a state that is there");
                    if let Some(old) = self.installed.insert(owner.0, next) {
                        self.beside.insert(old.inbound.spi, old);
                    }
                }
            }
            KernelOp::Move {
                owner,
                path,
                udp_encap,
            } => {
                let installed = self.installed.get_mut(&owner.0).into_iter();
                let beside = self
                    .beside
                    .values_mut()
                    .filter(|other| other.owner == owner);
                for child in installed.chain(beside) {
                    (child.path, child.udp_encap) = (path, udp_encap);
                }
            }
            KernelOp::Install(install) => {
                self.beside.retain(|_, other| other.owner != install.owner);
                self.blocked.insert(Arc::clone(&install.owner.0));
                self.installed
                    .insert(Arc::clone(&install.owner.0), *install);
            }
            KernelOp::Remove { owner, inbound, .. } => {
                self.beside.remove(&inbound);
                if self
                    .installed
                    .get(&owner.0)
                    .is_some_and(|i| i.inbound.spi == inbound)
                {
                    self.installed.remove(&owner.0);
                }
            }
            KernelOp::Block { owner, .. } => {
                self.blocked.insert(owner.0);
            }
            KernelOp::Trap { owner, ends, .. } => {
                self.trapped.insert(Arc::clone(&owner.0), ends.1);
                self.blocked.insert(owner.0);
            }
            KernelOp::Release { owner } => {
                self.beside.retain(|_, other| other.owner != owner);
                self.installed.remove(&owner.0);
                self.blocked.remove(&owner.0);
                self.trapped.remove(&owner.0);
                let others = self.blocked.iter().chain(self.installed.keys());
                let others = others.cloned().collect();
                self.released.push((owner.0, others));
            }
        }
        Ok(())
    }

    /// SPIs of all states that receive.
    pub(crate) fn inbound(&self) -> BTreeSet<u32> {
        let leading = self.installed.values().map(|child| child.inbound.spi);
        leading.chain(self.beside.keys().copied()).collect()
    }
}
