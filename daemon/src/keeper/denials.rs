//! Networks from which nobody is heard: those of the configuration, for good, and those that an operator
//! has denied for a while. Only the keeper changes the list; the gate and every engine are told. What an
//! operator has denied stays so over a restart and over a reboot, until its time has come.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use gate_abi::denied::Prefix;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{
    options::KeeperError,
    protocol::{Denial, GateRefused},
};
use crate::tickets::durable::{self, DurableError, Magic};

/// Networks that operators can deny beside those of the configuration. The engine goes through all of them
/// for each datagram.
const MAX_FOR_A_WHILE: usize = 192;
/// Of what was denied before a reboot only the wall clock tells the time, which may have been set back.
const LONGEST: Duration = Duration::from_secs(ikectl_api::MAX_DENY_SECONDS);

const FILE: &str = "denied";
const MAGIC: Magic = *b"rkdenie\x01";

/// The list.
#[derive(Debug, Default)]
pub(super) struct Denials {
    configured: Vec<Prefix>,
    /// Each with the time since boot at which it is heard again.
    for_a_while: Vec<(Prefix, Duration)>,
    kept: Option<Kept>,
}

/// Where the list outlives the keeper.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    path: PathBuf,
    boot_id: [u8; 16],
}

/// As it is on disk.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    /// The boot that the times since boot are of.
    boot_id: [u8; 16],
    denied: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    address: [u8; 16],
    bits: u8,
    /// When it is heard again: since boot, and since the epoch.
    until: Duration,
    until_wall: Duration,
}

impl Kept {
    pub(super) fn of(folder: &Path, boot_id: [u8; 16]) -> Self {
        Self {
            path: folder.join(FILE),
            boot_id,
        }
    }

    /// Everything whose time has not come, with the time since boot at which it will have.
    fn read(&self, now: Duration, wall: Duration) -> Result<Vec<(Prefix, Duration)>, KeeperError> {
        let damaged = |why| KeeperError::Denials {
            path: self.path.clone(),
            why,
        };
        let record = durable::read::<Record>(&self.path, MAGIC).map_err(|error| match error {
            DurableError::Io { path, source } => KeeperError::Folder { path, source },
            DurableError::Damaged { why, .. } => damaged(why),
        })?;
        let Some(Record { boot_id, denied }) = record else {
            return Ok(Vec::new());
        };
        if denied.len() > MAX_FOR_A_WHILE {
            return Err(damaged("too many networks"));
        }
        let mut read = Vec::with_capacity(denied.len());
        for one in denied {
            let network = Prefix::new(one.address, one.bits);
            let network = network.ok_or_else(|| damaged("no network"))?;
            let left = if boot_id == self.boot_id {
                one.until.saturating_sub(now)
            } else {
                one.until_wall.saturating_sub(wall)
            };
            if !left.is_zero() {
                read.push((network, now.saturating_add(left.min(LONGEST))));
            }
        }
        Ok(read)
    }

    fn write(
        &self,
        list: &[(Prefix, Duration)],
        now: Duration,
        wall: Duration,
    ) -> Result<(), DurableError> {
        let entry = |(network, until): &(Prefix, Duration)| {
            let (bits, address) = network.key();
            Entry {
                address,
                bits: bits as u8,
                until: *until,
                until_wall: wall.saturating_add(until.saturating_sub(now)),
            }
        };
        let record = Record {
            boot_id: self.boot_id,
            denied: list.iter().map(entry).collect(),
        };
        durable::write(&self.path, MAGIC, &record)
    }
}

impl Denials {
    pub(super) fn new(configured: &[Prefix]) -> Self {
        Self {
            configured: configured.to_vec(),
            ..Self::default()
        }
    }

    /// Takes in what an earlier keeper has kept, and keeps what follows; whether there was any.
    pub(super) fn remember(
        &mut self,
        kept: Kept,
        now: Duration,
        wall: Duration,
    ) -> Result<bool, KeeperError> {
        self.for_a_while = kept.read(now, wall)?;
        self.for_a_while
            .retain(|(network, _)| !self.configured.contains(network));
        self.kept = Some(kept);
        let networks = self.for_a_while.len();
        if networks > 0 {
            info!(networks, "denied by an operator before");
        }
        Ok(networks > 0)
    }

    /// Denies a network until then, also if it is denied already until another time.
    pub(super) fn deny(
        &mut self,
        network: Prefix,
        until: Duration,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        if self.configured.contains(&network) {
            return Err(GateRefused::Configured);
        }
        let mut list = self.for_a_while.clone();
        let room = list.len() < MAX_FOR_A_WHILE;
        let known = list.iter_mut().find(|(one, _)| *one == network);
        match known {
            Some((_, before)) => *before = until,
            None if room => list.push((network, until)),
            None => return Err(GateRefused::Full(MAX_FOR_A_WHILE)),
        }
        self.put(list, now, wall)
    }

    /// Hears a network again that an operator has denied.
    pub(super) fn undeny(
        &mut self,
        network: Prefix,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        if self.configured.contains(&network) {
            return Err(GateRefused::Configured);
        }
        let mut list = self.for_a_while.clone();
        list.retain(|(one, _)| *one != network);
        if list.len() == self.for_a_while.len() {
            return Err(GateRefused::NotDenied);
        }
        self.put(list, now, wall)
    }

    /// What cannot be kept is not done either: it would come back, or be lost, with the next keeper.
    fn put(
        &mut self,
        list: Vec<(Prefix, Duration)>,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        if let Some(kept) = &self.kept {
            let written = kept.write(&list, now, wall);
            written.map_err(|error| GateRefused::Failed(format!("is not kept: {error}")))?;
        }
        self.for_a_while = list;
        Ok(())
    }

    /// Hears those again whose time has come; whether there were any.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let before = self.for_a_while.len();
        self.for_a_while.retain(|(_, until)| *until > now);
        self.for_a_while.len() < before
    }

    /// All of them, those of the configuration first.
    pub(super) fn all(&self, now: Duration) -> Vec<Denial> {
        let configured = self.configured.iter().map(|network| (*network, None));
        let for_a_while = self.for_a_while.iter();
        let for_a_while =
            for_a_while.map(|(network, until)| (*network, Some(until.saturating_sub(now))));
        configured
            .chain(for_a_while)
            .map(|(network, left)| Denial { network, left })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::network_from_text;

    const NOW: Duration = Duration::ZERO;
    const WALL: Duration = Duration::from_hours(500_000);

    fn network(text: &str) -> Prefix {
        network_from_text(text).expect(text)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_network_is_denied_until_its_time_has_come() {
        let mut list = Denials::new(&[network("203.0.113.0/24")]);
        let other = network("2001:db8::/32");
        assert_eq!(list.deny(other, seconds(10), NOW, WALL), Ok(()));
        assert!(!list.expire(seconds(9)));
        let left: Vec<_> = list.all(seconds(9)).iter().map(|one| one.left).collect();
        assert_eq!(left, [None, Some(seconds(1))]);
        // Once more moves the time.
        assert_eq!(list.deny(other, seconds(20), NOW, WALL), Ok(()));
        assert!(!list.expire(seconds(10)));
        assert!(list.expire(seconds(20)));
        assert_eq!(list.all(seconds(20)).len(), 1);
    }

    #[test]
    fn only_what_an_operator_has_denied_can_be_taken_back() {
        let configured = network("203.0.113.0/24");
        let mut list = Denials::new(&[configured]);
        assert_eq!(
            list.undeny(configured, NOW, WALL),
            Err(GateRefused::Configured)
        );
        assert_eq!(
            list.deny(configured, seconds(1), NOW, WALL),
            Err(GateRefused::Configured)
        );
        let other = network("198.51.100.7");
        assert_eq!(list.undeny(other, NOW, WALL), Err(GateRefused::NotDenied));
        assert_eq!(list.deny(other, seconds(1), NOW, WALL), Ok(()));
        assert_eq!(list.undeny(other, NOW, WALL), Ok(()));
        assert_eq!(list.all(seconds(0)).len(), 1);
    }

    #[test]
    fn there_is_a_bound() {
        let mut list = Denials::default();
        let at = |number: usize| network(&format!("10.0.{}.{}", number / 256, number % 256));
        for number in 0..MAX_FOR_A_WHILE {
            assert_eq!(list.deny(at(number), seconds(1), NOW, WALL), Ok(()));
        }
        let more = list.deny(at(MAX_FOR_A_WHILE), seconds(1), NOW, WALL);
        assert_eq!(more, Err(GateRefused::Full(MAX_FOR_A_WHILE)));
        assert_eq!(
            list.deny(at(0), seconds(2), NOW, WALL),
            Ok(()),
            "is there already"
        );
    }

    #[test]
    fn what_was_denied_outlives_the_keeper_and_a_reboot_until_its_time_has_come() {
        let folder = tempfile::tempdir().expect("folder");
        let (boot, other_boot) = ([1; 16], [2; 16]);
        let reopened = |boot, now, wall| {
            let mut list = Denials::new(&[network("203.0.113.0/24")]);
            let any = list.remember(Kept::of(folder.path(), boot), now, wall);
            (any.expect("a good file"), list)
        };
        let now = seconds(100);
        let (any, mut list) = reopened(boot, now, WALL);
        assert!(!any, "nothing was kept yet");
        let (six, four) = (network("2001:db8::/32"), network("198.51.100.7"));
        let denied = [
            list.deny(six, seconds(700), now, WALL),
            list.deny(four, seconds(1000), now, WALL),
            list.undeny(four, now, WALL),
            list.deny(four, seconds(110), now, WALL),
        ];
        assert!(denied.iter().all(Result::is_ok));
        let left = |list: &Denials, now| -> Vec<_> {
            let all = list.all(now).into_iter();
            all.filter_map(|one| Some((one.network, one.left?)))
                .collect()
        };
        // In the same boot the wall clock says nothing.
        let later = seconds(105);
        let (_, list) = reopened(boot, later, seconds(0));
        assert_eq!(
            left(&list, later),
            [(six, seconds(595)), (four, seconds(5))]
        );
        // After a reboot it is all there is.
        let (_, list) = reopened(other_boot, seconds(3), WALL + seconds(500));
        assert_eq!(left(&list, seconds(3)), [(six, seconds(100))]);
        let (_, list) = reopened(other_boot, seconds(3), seconds(0));
        assert!(
            left(&list, seconds(3))
                .iter()
                .all(|(_, left)| *left <= LONGEST)
        );
        let (any, _) = reopened(boot, seconds(700), WALL);
        assert!(!any, "all are heard again");
    }

    #[test]
    fn a_damaged_list_stays_as_it_is_and_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let kept = Kept::of(folder.path(), [1; 16]);
        let mut list = Denials::default();
        list.remember(kept.clone(), NOW, WALL).expect("none yet");
        let denied = list.deny(network("198.51.100.7"), seconds(9), NOW, WALL);
        assert_eq!(denied, Ok(()));
        let path = folder.path().join(FILE);
        let mut octets = std::fs::read(&path).expect("the file");
        octets[20] ^= 1;
        std::fs::write(&path, &octets).expect("bent");
        let error = Denials::default().remember(kept, NOW, WALL);
        let error = error.expect_err("damaged").to_string();
        assert!(
            error.contains("denied: damaged (wrong checksum)") && error.contains("move it away"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).expect("still there"), octets);
    }

    #[test]
    fn what_cannot_be_kept_is_not_done() {
        let folder = tempfile::tempdir().expect("folder");
        let mut list = Denials::default();
        let nowhere = folder.path().join("gone");
        list.remember(Kept::of(&nowhere, [1; 16]), NOW, WALL)
            .expect("no file");
        let denied = list.deny(network("198.51.100.7"), seconds(9), NOW, WALL);
        assert!(matches!(denied, Err(GateRefused::Failed(_))), "{denied:?}");
        assert!(list.all(NOW).is_empty());
    }
}
