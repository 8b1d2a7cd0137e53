//! Networks that are judged beforehand: those of the configuration, for good, and those that an operator has
//! denied or allowed for a while. Only the keeper changes the lists; the gate and every engine are told. What
//! an operator has said stays so over a restart and over a reboot, until its time has come.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use gate_abi::networks::{Prefix, Rule};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{
    options::KeeperError,
    protocol::{GateRefused, ListedNetwork, Networks},
};
use crate::tickets::durable::{self, DurableError, Magic};

/// Networks that operators can deny beside those of the configuration, and as many that they can allow. The
/// engine goes through all of them for each datagram.
const MAX_FOR_A_WHILE: usize = 192;
/// Of what was said before a reboot only the wall clock tells the time, which may have been set back.
const LONGEST: Duration = Duration::from_secs(ikectl_api::MAX_DENY_SECONDS);

/// What a list's file begins with.
const fn magic(rule: Rule) -> Magic {
    match rule {
        Rule::Deny => *b"rkdenie\x01",
        Rule::Allow => *b"rkallow\x01",
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Lists {
    configured: Vec<Prefix>,
    denied: List,
    allowed: List,
}

/// What operators have said by one rule.
#[derive(Debug)]
struct List {
    rule: Rule,
    /// Each with the time since boot at which the rule ends.
    entries: Vec<(Prefix, Duration)>,
    kept: Option<Kept>,
}

/// Where a list outlives the keeper.
#[derive(Clone, Debug)]
struct Kept {
    path: PathBuf,
    magic: Magic,
    boot_id: [u8; 16],
}

/// As it is on disk.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    /// The boot that the times since boot are of.
    boot_id: [u8; 16],
    networks: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    address: [u8; 16],
    bits: u8,
    /// When the rule ends: since boot, and since the epoch.
    until: Duration,
    until_wall: Duration,
}

impl Kept {
    /// Everything whose time has not come, with the time since boot at which it will have.
    fn read(&self, now: Duration, wall: Duration) -> Result<Vec<(Prefix, Duration)>, KeeperError> {
        let damaged = |why| KeeperError::Networks {
            path: self.path.clone(),
            why,
        };
        let record =
            durable::read::<Record>(&self.path, self.magic).map_err(|error| match error {
                DurableError::Io { path, source } => KeeperError::Folder { path, source },
                DurableError::Damaged { why, .. } => damaged(why),
            })?;
        let Some(Record { boot_id, networks }) = record else {
            return Ok(Vec::new());
        };
        if networks.len() > MAX_FOR_A_WHILE {
            return Err(damaged("too many networks"));
        }
        let mut read = Vec::with_capacity(networks.len());
        for one in networks {
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
            networks: list.iter().map(entry).collect(),
        };
        durable::write(&self.path, self.magic, &record)
    }
}

impl List {
    const fn new(rule: Rule) -> Self {
        Self {
            rule,
            entries: Vec::new(),
            kept: None,
        }
    }

    fn has(&self, network: &Prefix) -> bool {
        self.entries.iter().any(|(one, _)| one == network)
    }

    /// Until then, also if it is listed already until another time.
    fn add(
        &mut self,
        network: Prefix,
        until: Duration,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        let mut entries = self.entries.clone();
        let room = entries.len() < MAX_FOR_A_WHILE;
        let known = entries.iter_mut().find(|(one, _)| *one == network);
        match known {
            Some((_, before)) => *before = until,
            None if room => entries.push((network, until)),
            None => return Err(GateRefused::Full(MAX_FOR_A_WHILE)),
        }
        self.put(entries, now, wall)
    }

    fn remove(
        &mut self,
        network: Prefix,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        let mut entries = self.entries.clone();
        entries.retain(|(one, _)| *one != network);
        if entries.len() == self.entries.len() {
            return Err(GateRefused::NotListed(self.rule));
        }
        self.put(entries, now, wall)
    }

    /// What cannot be kept is not done either: it would come back, or be lost, with the next keeper.
    fn put(
        &mut self,
        entries: Vec<(Prefix, Duration)>,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        if let Some(kept) = &self.kept {
            let written = kept.write(&entries, now, wall);
            written.map_err(|error| GateRefused::Failed(format!("is not kept: {error}")))?;
        }
        self.entries = entries;
        Ok(())
    }

    fn expire(&mut self, now: Duration) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(_, until)| *until > now);
        self.entries.len() < before
    }

    fn listed(&self, now: Duration) -> impl Iterator<Item = ListedNetwork> {
        self.entries
            .iter()
            .map(move |(network, until)| ListedNetwork {
                network: *network,
                left: Some(until.saturating_sub(now)),
            })
    }
}

impl Lists {
    pub(super) fn new(denied: &[Prefix]) -> Self {
        Self {
            configured: denied.to_vec(),
            denied: List::new(Rule::Deny),
            allowed: List::new(Rule::Allow),
        }
    }

    /// Takes in what an earlier keeper has kept, and keeps what follows; whether there was any.
    pub(super) fn remember(
        &mut self,
        folder: &Path,
        boot_id: [u8; 16],
        now: Duration,
        wall: Duration,
    ) -> Result<bool, KeeperError> {
        let Self {
            configured,
            denied,
            allowed,
        } = self;
        for list in [&mut *denied, &mut *allowed] {
            let kept = Kept {
                path: folder.join(list.rule.word()),
                magic: magic(list.rule),
                boot_id,
            };
            list.entries = kept.read(now, wall)?;
            list.entries
                .retain(|(network, _)| !configured.contains(network));
            list.kept = Some(kept);
        }
        let (denied, allowed) = (denied.entries.len(), allowed.entries.len());
        if denied + allowed > 0 {
            info!(denied, allowed, "networks as an operator has said before");
        }
        Ok(denied + allowed > 0)
    }

    /// Denies or allows a network until then.
    pub(super) fn add(
        &mut self,
        rule: Rule,
        network: Prefix,
        until: Duration,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        let (list, other) = self.of(rule, &network)?;
        if other.has(&network) {
            return Err(GateRefused::Listed(other.rule));
        }
        list.add(network, until, now, wall)
    }

    /// Ends what an operator has said of a network.
    pub(super) fn remove(
        &mut self,
        rule: Rule,
        network: Prefix,
        now: Duration,
        wall: Duration,
    ) -> Result<(), GateRefused> {
        let (list, _) = self.of(rule, &network)?;
        list.remove(network, now, wall)
    }

    /// The list of a rule, and the other one.
    fn of(&mut self, rule: Rule, network: &Prefix) -> Result<(&mut List, &List), GateRefused> {
        if self.configured.contains(network) {
            return Err(GateRefused::Configured);
        }
        Ok(match rule {
            Rule::Deny => (&mut self.denied, &self.allowed),
            Rule::Allow => (&mut self.allowed, &self.denied),
        })
    }

    /// Ends what has come to its time; whether there was any.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let denied = self.denied.expire(now);
        self.allowed.expire(now) || denied
    }

    /// All of them, those of the configuration first.
    pub(super) fn all(&self, now: Duration) -> Networks {
        let configured = self.configured.iter().map(|network| ListedNetwork {
            network: *network,
            left: None,
        });
        Networks {
            denied: configured.chain(self.denied.listed(now)).collect(),
            allowed: self.allowed.listed(now).collect(),
        }
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
        let mut list = Lists::new(&[network("203.0.113.0/24")]);
        let other = network("2001:db8::/32");
        assert_eq!(list.add(Rule::Deny, other, seconds(10), NOW, WALL), Ok(()));
        assert!(!list.expire(seconds(9)));
        let left: Vec<_> = list
            .all(seconds(9))
            .denied
            .iter()
            .map(|one| one.left)
            .collect();
        assert_eq!(left, [None, Some(seconds(1))]);
        // Once more moves the time.
        assert_eq!(list.add(Rule::Deny, other, seconds(20), NOW, WALL), Ok(()));
        assert!(!list.expire(seconds(10)));
        assert!(list.expire(seconds(20)));
        assert_eq!(list.all(seconds(20)).denied.len(), 1);
    }

    #[test]
    fn only_what_an_operator_has_denied_can_be_taken_back() {
        let configured = network("203.0.113.0/24");
        let mut list = Lists::new(&[configured]);
        assert_eq!(
            list.remove(Rule::Deny, configured, NOW, WALL),
            Err(GateRefused::Configured)
        );
        assert_eq!(
            list.add(Rule::Deny, configured, seconds(1), NOW, WALL),
            Err(GateRefused::Configured)
        );
        let other = network("198.51.100.7");
        assert_eq!(
            list.remove(Rule::Deny, other, NOW, WALL),
            Err(GateRefused::NotListed(Rule::Deny))
        );
        assert_eq!(list.add(Rule::Deny, other, seconds(1), NOW, WALL), Ok(()));
        assert_eq!(list.remove(Rule::Deny, other, NOW, WALL), Ok(()));
        assert_eq!(list.all(seconds(0)).denied.len(), 1);
    }

    #[test]
    fn there_is_a_bound() {
        let mut list = Lists::new(&[]);
        let at = |number: usize| network(&format!("10.0.{}.{}", number / 256, number % 256));
        for number in 0..MAX_FOR_A_WHILE {
            assert_eq!(
                list.add(Rule::Deny, at(number), seconds(1), NOW, WALL),
                Ok(())
            );
        }
        let more = list.add(Rule::Deny, at(MAX_FOR_A_WHILE), seconds(1), NOW, WALL);
        assert_eq!(more, Err(GateRefused::Full(MAX_FOR_A_WHILE)));
        assert_eq!(
            list.add(Rule::Deny, at(0), seconds(2), NOW, WALL),
            Ok(()),
            "is there already"
        );
    }

    #[test]
    fn what_was_denied_outlives_the_keeper_and_a_reboot_until_its_time_has_come() {
        let folder = tempfile::tempdir().expect("folder");
        let (boot, other_boot) = ([1; 16], [2; 16]);
        let reopened = |boot, now, wall| {
            let mut list = Lists::new(&[network("203.0.113.0/24")]);
            let any = list.remember(folder.path(), boot, now, wall);
            (any.expect("a good file"), list)
        };
        let now = seconds(100);
        let (any, mut list) = reopened(boot, now, WALL);
        assert!(!any, "nothing was kept yet");
        let (six, four) = (network("2001:db8::/32"), network("198.51.100.7"));
        let denied = [
            list.add(Rule::Deny, six, seconds(700), now, WALL),
            list.add(Rule::Deny, four, seconds(1000), now, WALL),
            list.remove(Rule::Deny, four, now, WALL),
            list.add(Rule::Deny, four, seconds(110), now, WALL),
        ];
        assert!(denied.iter().all(Result::is_ok));
        let left = |list: &Lists, now| -> Vec<_> {
            let all = list.all(now).denied.into_iter();
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
    fn the_two_lists_are_kept_apart_and_never_say_both_of_one_network() {
        let folder = tempfile::tempdir().expect("folder");
        let configured = network("203.0.113.0/24");
        let open = || {
            let mut lists = Lists::new(&[configured]);
            let any = lists.remember(folder.path(), [1; 16], NOW, WALL);
            (any.expect("good files"), lists)
        };
        let (_, mut list) = open();
        let (one, other) = (network("198.51.100.0/24"), network("192.0.2.7"));
        let until = seconds(9);
        assert_eq!(list.add(Rule::Allow, one, until, NOW, WALL), Ok(()));
        assert_eq!(list.add(Rule::Deny, other, until, NOW, WALL), Ok(()));
        let both = list.add(Rule::Deny, one, until, NOW, WALL);
        assert_eq!(both, Err(GateRefused::Listed(Rule::Allow)));
        let both = list.add(Rule::Allow, other, until, NOW, WALL);
        assert_eq!(both, Err(GateRefused::Listed(Rule::Deny)));
        let of_configured = list.add(Rule::Allow, configured, until, NOW, WALL);
        assert_eq!(of_configured, Err(GateRefused::Configured));
        let absent = list.remove(Rule::Allow, other, NOW, WALL);
        assert_eq!(absent, Err(GateRefused::NotListed(Rule::Allow)));

        let (any, mut list) = open();
        assert!(any, "they are kept");
        let rules = [
            (configured, Rule::Deny),
            (other, Rule::Deny),
            (one, Rule::Allow),
        ];
        assert_eq!(list.all(NOW).rules(), rules);
        // A file of the other list is none of this one.
        let [denied, allowed] =
            [Rule::Deny, Rule::Allow].map(|rule| folder.path().join(rule.word()));
        std::fs::copy(&denied, &allowed).expect("copied");
        let error = Lists::new(&[]).remember(folder.path(), [1; 16], NOW, WALL);
        assert!(matches!(error, Err(KeeperError::Networks { path, .. }) if path == allowed));

        assert_eq!(list.remove(Rule::Allow, one, NOW, WALL), Ok(()));
        assert!(list.expire(until));
        assert_eq!(list.all(until).rules(), [(configured, Rule::Deny)]);
    }

    #[test]
    fn a_damaged_list_stays_as_it_is_and_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let mut list = Lists::new(&[]);
        list.remember(folder.path(), [1; 16], NOW, WALL)
            .expect("none yet");
        let denied = list.add(Rule::Deny, network("198.51.100.7"), seconds(9), NOW, WALL);
        assert_eq!(denied, Ok(()));
        let path = folder.path().join(Rule::Deny.word());
        let mut octets = std::fs::read(&path).expect("the file");
        octets[20] ^= 1;
        std::fs::write(&path, &octets).expect("bent");
        let error = Lists::new(&[]).remember(folder.path(), [1; 16], NOW, WALL);
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
        let mut list = Lists::new(&[]);
        let nowhere = folder.path().join("gone");
        list.remember(&nowhere, [1; 16], NOW, WALL)
            .expect("no file");
        let denied = list.add(Rule::Deny, network("198.51.100.7"), seconds(9), NOW, WALL);
        assert!(matches!(denied, Err(GateRefused::Failed(_))), "{denied:?}");
        assert!(list.all(NOW).denied.is_empty());
    }
}
