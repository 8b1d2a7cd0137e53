//! Which worker's Child SA each owner has in the kernel. All changes come through here one after another,
//! so this is where a resumption on another worker than the old SA's changes hands: what one worker
//! has installed, another replaces, and nobody but the last one takes away (`docs/decisions/0006`).

use std::collections::HashMap;

use ike::kernel::{KernelOp, Owner};

use super::protocol::Taken;

/// The last to install, by owner. As many as the data plane holds owners.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<Owner, Holder>);

#[derive(Debug)]
struct Holder {
    worker: u8,
    /// SPIs of the inbound states, the present one last; more than one only while keys are replaced.
    inbound: Vec<u32>,
}

/// Inbound states that an owner has at once: a rekey by either side, and what each replaces.
const MAX_INBOUND: usize = 4;

impl Holders {
    /// Whether an operation is of an SA that has been replaced on another worker: there is nothing left
    /// of it to be taken away or to be given new keys.
    pub(super) fn is_void(&self, worker: u8, what: &KernelOp) -> bool {
        match what {
            KernelOp::Remove { owner, .. }
            | KernelOp::Release { owner }
            | KernelOp::Move { owner, .. }
            | KernelOp::Lead { owner, .. } => self.is_of_another(worker, owner),
            KernelOp::Add(child) => self.is_of_another(worker, &child.owner),
            KernelOp::Install(_) | KernelOp::Block { .. } | KernelOp::Trap { .. } => false,
        }
    }

    fn is_of_another(&self, worker: u8, owner: &Owner) -> bool {
        let holder = self.0.get(owner);
        holder.is_some_and(|holder| holder.worker != worker)
    }

    /// An operation has been carried out: what it took from another worker.
    pub(super) fn changed(&mut self, worker: u8, what: &KernelOp) -> Option<Taken> {
        match what {
            KernelOp::Install(child) => {
                let inbound = vec![child.inbound.spi];
                let owner = child.owner.clone();
                let before = self.0.insert(owner, Holder { worker, inbound })?;
                let inbound = *before.inbound.last()?;
                (before.worker != worker).then(|| Taken {
                    worker: before.worker,
                    owner: child.owner.0.to_string(),
                    inbound,
                })
            }
            KernelOp::Add(child) => {
                let inbound = &mut self.0.get_mut(&child.owner)?.inbound;
                if inbound.len() == MAX_INBOUND {
                    inbound.remove(0);
                }
                inbound.push(child.inbound.spi);
                None
            }
            KernelOp::Remove { owner, inbound, .. } => {
                let holder = self.0.get_mut(owner)?;
                holder.inbound.retain(|spi| spi != inbound);
                if holder.inbound.is_empty() {
                    self.0.remove(owner);
                }
                None
            }
            KernelOp::Release { owner } => {
                self.0.remove(owner);
                None
            }
            KernelOp::Lead { .. }
            | KernelOp::Move { .. }
            | KernelOp::Block { .. }
            | KernelOp::Trap { .. } => None,
        }
    }

    /// The engine is gone, and whoever comes next has installed nothing.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ike::{
        crypto::Secret,
        io::Path,
        kernel::{ChildInstall, EspCipher, EspKey},
    };

    use super::*;

    fn owner() -> Owner {
        Owner("office/net/carol".into())
    }

    fn install(spi: u32) -> KernelOp {
        KernelOp::Install(Box::new(child(spi)))
    }

    fn child(spi: u32) -> ChildInstall {
        let address = "192.0.2.1:500".parse().expect("address");
        let key = |spi| EspKey {
            spi,
            key: Secret::default(),
        };
        ChildInstall {
            owner: owner(),
            path: Path {
                local: address,
                remote: address,
            },
            udp_encap: false,
            carriage: ike::kernel::Carriage::default(),
            cipher: EspCipher::AesGcm128,
            inbound: key(spi),
            outbound: key(9),
            esn: true,
            local_ts: Vec::new(),
            remote_ts: Vec::new(),
            leased: Vec::new(),
            hard_lifetime: Duration::ZERO,
        }
    }

    fn remove(inbound: u32) -> KernelOp {
        KernelOp::Remove {
            owner: owner(),
            inbound,
            outbound: 9,
        }
    }

    #[test]
    fn whoever_installs_last_holds_and_the_one_before_is_told() {
        let mut holders = Holders::default();
        assert_eq!(holders.changed(0, &install(1)), None);
        // New keys on the same worker: its own affair.
        assert_eq!(holders.changed(0, &install(2)), None);
        let taken = holders.changed(1, &install(3)).expect("taken");
        assert_eq!((taken.worker, taken.inbound), (0, 2));
        assert_eq!(taken.owner, "office/net/carol");
        let back = holders.changed(0, &install(4)).expect("taken");
        assert_eq!((back.worker, back.inbound), (1, 3));
    }

    /// It has not heard yet, and need not: it cannot take away what is not its own.
    #[test]
    fn an_old_owner_that_is_silent_does_no_harm_when_it_speaks() {
        let mut holders = Holders::default();
        holders.changed(0, &install(1));
        holders.changed(1, &install(2));
        let release = KernelOp::Release { owner: owner() };
        assert!(holders.is_void(0, &remove(1)) && holders.is_void(0, &release));
        assert!(!holders.is_void(1, &remove(2)) && !holders.is_void(1, &release));
    }

    #[test]
    fn new_keys_beside_the_old_ones_are_held_until_the_last_is_gone() {
        let add = |spi| KernelOp::Add(Box::new(child(spi)));
        let mut holders = Holders::default();
        holders.changed(0, &install(1));
        holders.changed(0, &add(2));
        holders.changed(0, &remove(1));
        let release = KernelOp::Release { owner: owner() };
        assert!(holders.is_void(1, &release) && holders.is_void(1, &add(3)));
        assert!(!holders.is_void(0, &add(3)));
        let taken = holders.changed(1, &install(4)).expect("taken");
        assert_eq!((taken.worker, taken.inbound), (0, 2));
        for spi in 5..100 {
            holders.changed(1, &add(spi));
        }
        assert_eq!(holders.0[&owner()].inbound.len(), MAX_INBOUND);
    }

    #[test]
    fn what_nobody_holds_anybody_may_take_away() {
        let mut holders = Holders::default();
        let release = KernelOp::Release { owner: owner() };
        assert!(!holders.is_void(1, &release));
        holders.changed(0, &install(1));
        holders.changed(0, &install(2));
        // Of the SA before: the present one stays held.
        holders.changed(0, &remove(1));
        assert!(holders.is_void(1, &release));
        holders.changed(0, &remove(2));
        assert!(!holders.is_void(1, &release) && holders.0.is_empty());
        holders.changed(0, &install(3));
        holders.changed(0, &release);
        assert!(holders.0.is_empty());
        holders.changed(0, &install(4));
        holders.clear();
        assert_eq!(holders.changed(1, &install(5)), None);
    }
}
