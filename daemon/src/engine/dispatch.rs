//! Which worker a datagram is for, and the queues between workers for what has come to another one. With
//! lanes that is the exception; without them the first worker reads everything and hands on.
//!
//! An SPI of ours names its worker, and only he can say whether it is live: nobody else answers for it.

use std::cell::Cell;

use gate_abi::{
    sip::{SipKey, siphash24, siphash24_words},
    spi::OurSpi,
};
use ike::io::Path;
use tokio::sync::mpsc;

use crate::gate::mapped;

/// Datagrams that wait for a worker. What finds the queue full is lost: IKE repeats itself.
const MAX_HANDED_ON: usize = 1024;
/// Flag of an IKE header: from whoever began the IKE SA.
const INITIATOR: u8 = 0x08;

/// The worker that brings a connection up and keeps its session.
pub(super) fn home_of(connection: &str, workers: u8) -> u8 {
    // No secret: whoever writes the configuration may choose.
    let hash = siphash24(&SipKey { k0: 0, k1: 0 }, connection.as_bytes());
    (hash % u64::from(workers.max(1))) as u8
}

/// One worker's view of who is for whom.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) worker: u8,
    pub(super) workers: u8,
    /// The octet of our SPIs.
    pub(super) node: u8,
    /// The present `k_spi`, then the one before.
    pub(super) keys: [SipKey; 2],
    /// If this worker reads what is for all: what first messages are spread by.
    pub(super) spread: Option<SipKey>,
}

impl Dispatch {
    /// The other worker that this message is for, if it is.
    pub(super) fn elsewhere(&self, path: &Path, message: &[u8]) -> Option<u8> {
        if self.workers <= 1 {
            return None;
        }
        let (spi_i, rest) = message.split_first_chunk::<8>()?;
        let spi_r = rest.first_chunk::<8>()?;
        let flags = *message.get(19)?;
        let ours = if flags & INITIATOR == 0 { spi_i } else { spi_r };
        let worker = if *ours == [0; 8] {
            self.spread_of(path, self.spread.as_ref()?)
        } else {
            self.named(OurSpi::from_wire(*ours))?
        };
        (worker != self.worker).then_some(worker)
    }

    /// The worker that an SPI names. One of an engine that had more of them is anybody's.
    fn named(&self, spi: OurSpi) -> Option<u8> {
        let worker = spi.worker();
        let another = worker != self.worker && worker < self.workers && spi.node() == self.node;
        // Nobody costs another worker anything by an SPI that he has made up.
        let proven = another && self.keys.iter().any(|key| spi.check_is_right(key));
        proven.then_some(worker)
    }

    /// What one sender repeats comes to the same worker.
    fn spread_of(&self, path: &Path, key: &SipKey) -> u8 {
        let address = u128::from_ne_bytes(mapped(&path.remote.ip()));
        let port = u64::from(path.remote.port());
        let hash = siphash24_words(key, &[address as u64, (address >> 64) as u64, port]);
        (hash % u64::from(self.workers)) as u8
    }
}

/// A message on its way to the worker it is for.
#[derive(Debug)]
pub(super) struct HandedOn {
    pub(super) path: Path,
    pub(super) message: Vec<u8>,
}

/// The way to all workers.
#[derive(Debug)]
pub(super) struct HandsOn {
    to: Vec<mpsc::Sender<HandedOn>>,
    handed_on: Cell<u64>,
    lost: Cell<u64>,
}

impl HandsOn {
    pub(super) fn send(&self, worker: u8, path: Path, message: &[u8]) {
        let message = message.to_vec();
        let to = self.to.get(usize::from(worker));
        let sent = to.map(|to| to.try_send(HandedOn { path, message }));
        let count = match sent {
            Some(Ok(())) => &self.handed_on,
            Some(Err(_)) | None => &self.lost,
        };
        count.set(count.get() + 1);
    }

    /// Messages that went to other workers, and those for which there was no room.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.handed_on.get(), self.lost.get())
    }
}

/// Each worker's way to all others, and its own queue.
pub(super) fn between(workers: usize) -> Vec<(HandsOn, mpsc::Receiver<HandedOn>)> {
    let (to, queues): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(MAX_HANDED_ON)).unzip();
    let hands_on = |queue| {
        let to = to.clone();
        let (handed_on, lost) = (Cell::new(0), Cell::new(0));
        let hands_on = HandsOn {
            to,
            handed_on,
            lost,
        };
        (hands_on, queue)
    };
    queues.into_iter().map(hands_on).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KEYS: [SipKey; 2] = [SipKey { k0: 1, k1: 2 }, SipKey { k0: 3, k1: 4 }];
    const NODE: u8 = 9;

    fn dispatch(spread: Option<SipKey>) -> Dispatch {
        Dispatch {
            worker: 1,
            workers: 3,
            node: NODE,
            keys: KEYS,
            spread,
        }
    }

    fn path(port: u16) -> Path {
        Path {
            local: "192.0.2.1:500".parse().expect("address"),
            remote: ([192, 0, 2, 9], port).into(),
        }
    }

    fn message(spi_i: u64, spi_r: u64, flags: u8) -> Vec<u8> {
        let mut message = [spi_i.to_be_bytes(), spi_r.to_be_bytes()].concat();
        message.extend_from_slice(&[46, 0x20, 37, flags]);
        message.extend_from_slice(&[0; 8]);
        message
    }

    #[test]
    fn an_spi_of_ours_goes_to_the_worker_it_names() {
        let dispatch = dispatch(None);
        let to = |message: &[u8]| dispatch.elsewhere(&path(500), message);
        let spi = |worker, key| OurSpi::compose(NODE, worker, 77, key).0;
        for key in &KEYS {
            assert_eq!(to(&message(5, spi(2, key), INITIATOR)), Some(2));
            assert_eq!(to(&message(spi(0, key), 5, 0x20)), Some(0));
            // Our own, and of an engine that had more workers.
            assert_eq!(to(&message(5, spi(1, key), INITIATOR)), None);
            assert_eq!(to(&message(5, spi(3, key), INITIATOR)), None);
        }
        // The peer's SPI is not ours, whatever it looks like.
        assert_eq!(to(&message(spi(2, &KEYS[0]), 5, INITIATOR)), None);
        assert_eq!(to(&message(5, spi(2, &KEYS[0]) ^ 1, INITIATOR)), None);
        let stranger = OurSpi::compose(NODE + 1, 2, 77, &KEYS[0]).0;
        assert_eq!(to(&message(5, stranger, INITIATOR)), None);
        for short in 0..20 {
            assert_eq!(to(&message(5, spi(2, &KEYS[0]), INITIATOR)[..short]), None);
        }
    }

    #[test]
    fn first_messages_are_spread_only_by_whoever_reads_all_of_them() {
        let first = message(5, 0, INITIATOR);
        let spread = dispatch(Some(SipKey { k0: 5, k1: 6 }));
        let of = |port| spread.elsewhere(&path(port), &first);
        let workers: BTreeSet<_> = (500..540).map(of).collect();
        assert_eq!(workers, BTreeSet::from([None, Some(0), Some(2)]));
        assert_eq!(of(500), of(500), "a repetition goes the same way");
        assert_eq!(dispatch(None).elsewhere(&path(500), &first), None);
    }

    #[test]
    fn a_full_queue_loses_and_counts() {
        let mut all = between(2);
        let (second, mut queue) = all.pop().expect("two");
        let (first, _) = all.pop().expect("two");
        for _ in 0..=MAX_HANDED_ON {
            first.send(1, path(500), b"x");
        }
        assert_eq!(first.counts(), (MAX_HANDED_ON as u64, 1));
        assert_eq!(second.counts(), (0, 0));
        assert_eq!(queue.try_recv().expect("a message").message, b"x");
    }

    #[test]
    fn a_connection_has_one_home() {
        let names: Vec<_> = (0..50).map(|number| format!("site-{number}")).collect();
        let homes: BTreeSet<_> = names.iter().map(|name| home_of(name, 3)).collect();
        assert_eq!(homes, BTreeSet::from([0, 1, 2]));
        assert!(names.iter().all(|name| home_of(name, 1) == 0));
    }
}
