//! The keeper's hold on the gate: it loads it, keeps its keys and our addresses current, and lets it
//! know that somebody is at home. A gate that fails costs speed, so nothing here stops the daemon.

mod status;

use std::{
    collections::BTreeSet, fs::File, net::IpAddr, os::fd::BorrowedFd, path::Path, time::Duration,
};

use gate_abi::{
    board,
    cookie::{self, epoch_of_interval},
    lane::LaneCounts,
    maps::TicketKeys,
};
use ike::{defence::cookie::CookieSecrets, io::TicketRoot, ticket::Keyring};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use tracing::{info, warn};

use super::{
    networks::Lists,
    options::KeeperError,
    protocol::{GateCommand, GateRefused, Networks},
};
use crate::{
    gate::{
        Board, Counted, FloodMode, Gate, GateError, GateOptions, Lanes, LevelChoice, Mode,
        SAMPLE_EVERY, boot_clock, network_to_text,
    },
    tickets::{Node, Ring, UsedBits},
    wall::since_epoch,
};

/// Addresses come and go; the gate may take so long to learn of it.
const REFRESH: Duration = Duration::from_secs(5);

const SWITCHED_OFF: &str = "switched off in the configuration";
const TAKEN_OFF: &str = "taken off by the operator";

/// Which epoch has which slot of used bits on the gate's board.
#[derive(Default)]
struct UsedSlots([Option<u8>; board::USED_SLOTS as usize]);

impl UsedSlots {
    fn of(&self, key_id: u8) -> Option<u32> {
        let slot = self.0.iter().position(|epoch| *epoch == Some(key_id))?;
        Some(slot as u32)
    }

    /// Gives an epoch a free slot with its used bits. Without a slot, or without those, it goes
    /// without: more of its tickets reach the daemon.
    fn give(&mut self, key_id: u8, bitmap: &File, board: &Board) {
        let Some(slot) = self.0.iter().position(Option::is_none) else {
            return;
        };
        // A slot with the bits of another epoch would refuse genuine tickets.
        let Ok(bits) = UsedBits::read(bitmap) else {
            return;
        };
        self.0[slot] = Some(key_id);
        board.clear_used(slot as u32);
        let (words, _) = bits.as_chunks();
        board.add_used(slot as u32, words.iter().copied());
    }

    fn retain(&mut self, is_live: impl Fn(&u8) -> bool) {
        for slot in &mut self.0 {
            slot.take_if(|key_id| !is_live(key_id));
        }
    }
}

/// What gate and lanes had counted at a time.
#[derive(Default)]
struct Sample {
    at: Duration,
    counted: Vec<Counted>,
    lanes: LaneCounts,
}

/// A gate, or the reason for having none.
pub(super) struct Guard {
    gate: Option<Gate>,
    /// Where it is to be attached; empty for wherever one of our addresses is.
    interfaces: Vec<String>,
    /// Whether it is to be attached at all. The program for sockets is loaded either way.
    on_interfaces: bool,
    /// An operator has taken it off its interfaces.
    taken_off: bool,
    trouble: Option<String>,
    /// Where we listen; empty for every address of this host.
    listen: Vec<IpAddr>,
    addresses: BTreeSet<IpAddr>,
    refreshed: Option<Duration>,
    cookies: Option<CookieSecrets>,
    /// Of the cookie keys that the gate has.
    interval: Option<u64>,
    level: LevelChoice,
    /// What the gate had counted at the last look and the one before.
    samples: [Sample; 2],
    lists: Lists,
    /// The list is another than the engine was last told.
    newly_listed: bool,
    used_slots: UsedSlots,
    /// That are to work on IKE; none for whichever it comes to.
    cpus: Vec<u32>,
}

impl Guard {
    /// Loads the gate, and leaves the interfaces as they are.
    pub(super) fn load(options: Option<GateOptions>, listen: &[IpAddr], flood: FloodMode) -> Self {
        let wildcard = listen.iter().any(IpAddr::is_unspecified);
        let mut guard = Self {
            gate: None,
            interfaces: Vec::new(),
            on_interfaces: false,
            taken_off: false,
            trouble: None,
            listen: if wildcard {
                Vec::new()
            } else {
                listen.to_vec()
            },
            addresses: BTreeSet::new(),
            refreshed: None,
            cookies: None,
            interval: None,
            level: LevelChoice::new(flood, boot_clock()),
            samples: Default::default(),
            lists: Lists::new(&[]),
            newly_listed: false,
            used_slots: UsedSlots::default(),
            cpus: Vec::new(),
        };
        let Some(options) = options else {
            guard.trouble = Some(SWITCHED_OFF.into());
            return guard;
        };
        guard.on_interfaces = options.mode != Mode::Off;
        guard.lists = Lists::new(&options.denied);
        match Gate::load(&options) {
            Ok(gate) => {
                guard.interfaces = options.interfaces;
                guard.gate = Some(gate);
                guard.tell_level();
                // Before there are keys to judge by: what only passes through is nobody's to drop.
                guard.refresh_addresses();
            }
            Err(error) => guard.complain(&error.to_string()),
        }
        guard
    }

    /// Goes on with what operators have said of networks, in this boot or before it, and keeps it.
    pub(super) fn remember_networks(
        &mut self,
        folder: &Path,
        boot_id: [u8; 16],
        now: Duration,
        wall: Duration,
    ) -> Result<(), KeeperError> {
        if self.lists.remember(folder, boot_id, now, wall)? {
            self.tell_rules(now);
        }
        Ok(())
    }

    /// For sockets in lanes; the error says why there are none.
    pub(super) fn lanes(&mut self) -> Result<Lanes<'_>, String> {
        let Some(gate) = &mut self.gate else {
            return Err(self.trouble.clone().unwrap_or_default());
        };
        gate.lanes().map_err(|error| error.to_string())
    }

    /// Attaches the gate as far as it goes. Without interfaces in the options it goes wherever one of
    /// our addresses is. `cpus` are those that are to work on IKE; none means whichever it comes to.
    pub(super) fn attach(&mut self, cpus: &[u32]) {
        if !self.on_interfaces {
            self.trouble = Some(SWITCHED_OFF.into());
        }
        self.cpus = cpus.to_vec();
        self.follow_interfaces();
    }

    fn follow_interfaces(&mut self) {
        if let Err(error) = self.stand_guard() {
            self.complain(&error.to_string());
        }
    }

    /// Interfaces come and go, and some are made anew.
    fn stand_guard(&mut self) -> Result<(), GateError> {
        let interfaces = if self.taken_off {
            Vec::new()
        } else if self.interfaces.is_empty() {
            self.own_interfaces()
        } else {
            self.interfaces.clone()
        };
        let Some(gate) = &mut self.gate else {
            return Ok(());
        };
        let changed = gate.stand_guard(interfaces, boot_clock())?;
        for attachment in &changed {
            info!(
                interface = attachment.interface,
                mode = attachment.mode.name(),
                reason = attachment.reason,
                "gate"
            );
        }
        if self.cpus.is_empty() || changed.is_empty() {
            return Ok(());
        }
        let left_out = gate.name_cpus(&self.cpus)?;
        if left_out.is_empty() {
            info!(cpus = ?self.cpus, "IKE is steered");
        } else {
            let left_out = left_out.join(", ");
            self.complain(&format!(
                "no steering on {left_out}: the gate is not native"
            ));
        }
        Ok(())
    }

    /// Gives the gate the tag keys of every live epoch with a copy of its used bits, and both SPI
    /// keys.
    pub(super) fn set_keys(&mut self, ring: &Ring, node: &Node) {
        let set = self.tell_keys(ring, node);
        if let Err(error) = set {
            self.complain(&error.to_string());
        }
    }

    fn tell_keys(&mut self, ring: &Ring, node: &Node) -> Result<(), GateError> {
        let Some(gate) = &mut self.gate else {
            return Ok(());
        };
        let mut keyring = Keyring::new(node.id());
        for (key_id, root, _) in ring.epochs() {
            keyring.add(&TicketRoot { key_id, root });
        }
        let mut keys: Vec<_> = keyring.gate_keys().collect();
        self.used_slots
            .retain(|key_id| keys.iter().any(|(live, _)| live == key_id));
        let slots = &mut self.used_slots;
        let with_slots = |keys: &mut Vec<(u8, TicketKeys)>, slots: &UsedSlots| {
            for (key_id, keys) in keys {
                keys.used_slot = slots.of(*key_id);
            }
        };
        // A slot changes hands while no key names it.
        with_slots(&mut keys, slots);
        gate.set_ticket_keys(&keys)?;
        for (key_id, _, bitmap) in ring.epochs() {
            if slots.of(key_id).is_none() {
                slots.give(key_id, bitmap, gate.board());
            }
        }
        with_slots(&mut keys, slots);
        gate.set_ticket_keys(&keys)?;
        gate.set_node(node.id())?;
        gate.set_check_live_spi(true)?;
        gate.set_check_own_spi(true)?;
        gate.set_spi_keys(node.spi_keys())
    }

    /// The gate's board, for the engine.
    pub(super) fn board(&self) -> Option<BorrowedFd<'_>> {
        self.gate.as_ref().map(Gate::board_descriptor)
    }

    /// Where an epoch's used bits are on it.
    pub(super) fn used_slot(&self, key_id: u8) -> Option<u32> {
        self.used_slots.of(key_id)
    }

    /// Gives the gate the cookie keys of this boot, from now on.
    pub(super) fn set_cookies(&mut self, secrets: CookieSecrets) {
        self.cookies = Some(secrets);
        self.interval = None;
    }

    /// To be called several times a second, with the wall clock's offset while that is believed.
    pub(super) fn tick(&mut self, now: Duration, offset: Option<u64>) {
        if self.lists.expire(now) {
            self.tell_rules(now);
        }
        if self.gate.is_none() {
            return;
        }
        let told = self.tell_clocks(now, offset);
        if let Err(error) = told {
            self.complain(&error.to_string());
        }
        if self
            .refreshed
            .is_none_or(|at| now.saturating_sub(at) >= REFRESH)
        {
            self.refreshed = Some(now);
            self.refresh_addresses();
            self.follow_interfaces();
        }
        if now.saturating_sub(self.samples[1].at) >= SAMPLE_EVERY {
            self.sample(now);
        }
        let beat = self.gate.as_mut().map(|gate| {
            gate.read_samples();
            gate.heartbeat(now)
        });
        if let Some(Err(error)) = beat {
            self.complain(&error.to_string());
        }
    }

    /// Looks at the counters, and changes the level if they ask for it.
    fn sample(&mut self, now: Duration) {
        let Some(Ok(counted)) = self.gate.as_ref().map(Gate::counted) else {
            return;
        };
        let unproven = counted
            .iter()
            .filter(|one| one.reason.is_unproven())
            .map(|one| one.packets)
            .sum();
        let lanes = self.gate.as_ref().and_then(Gate::lane_counts);
        self.samples.swap(0, 1);
        self.samples[1] = Sample {
            at: now,
            counted,
            lanes: lanes.and_then(Result::ok).unwrap_or_default(),
        };
        let board = self.gate.as_ref().map(Gate::board);
        let half_open = board.map_or(0, Board::half_open);
        let delay = board.map_or(Duration::ZERO, Board::take_queue_delay);
        if self.level.observe(now, unproven, half_open, delay) {
            let (level, why) = (self.level.level().name(), self.level.why());
            warn!(level, why, "level of defence");
            self.tell_level();
        }
    }

    fn tell_level(&mut self) {
        let level = self.level.told();
        if let Some(Err(error)) = self.gate.as_mut().map(|gate| gate.set_level(level)) {
            self.complain(&error.to_string());
        }
    }

    fn tell_clocks(&mut self, now: Duration, offset: Option<u64>) -> Result<(), GateError> {
        let Some(gate) = &mut self.gate else {
            return Ok(());
        };
        gate.set_wall_minus_boot(offset)?;
        let interval = cookie::interval_at(now.as_secs());
        if self.interval != Some(interval)
            && let Some(secrets) = &self.cookies
        {
            // The next one too, so that no late tick leaves the gate without.
            let intervals = [interval.wrapping_sub(1), interval, interval + 1];
            let keys = intervals.map(|one| (epoch_of_interval(one), secrets.of_interval(one)));
            gate.set_cookie_keys(&keys)?;
            self.interval = Some(interval);
        }
        Ok(())
    }

    /// What an operator wants. Whether the networks with a rule are others now, [`Self::newly_listed`] says.
    pub(super) fn command(
        &mut self,
        command: GateCommand,
        now: Duration,
    ) -> Result<(), GateRefused> {
        let failed = |error: GateError| GateRefused::Failed(error.to_string());
        match command {
            GateCommand::List {
                rule,
                network,
                lasting,
            } => {
                let until = now.saturating_add(lasting);
                self.lists.add(rule, network, until, now, since_epoch())?;
                let how = rule.word();
                info!(network = network_to_text(network), ?lasting, "{how}");
                self.tell_rules(now);
            }
            GateCommand::Unlist { rule, network } => {
                self.lists.remove(rule, network, now, since_epoch())?;
                let how = rule.word();
                info!(network = network_to_text(network), "no longer {how}");
                self.tell_rules(now);
            }
            GateCommand::Attach
            | GateCommand::Detach
            | GateCommand::Level { .. }
            | GateCommand::ConfiguredLevel
                if !self.on_interfaces =>
            {
                return Err(GateRefused::SwitchedOff);
            }
            GateCommand::Level { mode, lasting } => {
                self.level.set(mode, now.saturating_add(lasting), now);
                info!(mode = mode.word(), ?lasting, "level of defence");
                self.tell_level();
            }
            GateCommand::ConfiguredLevel => {
                self.level.unset(now);
                info!("level of defence as configured");
                self.tell_level();
            }
            GateCommand::Attach => {
                self.taken_off = false;
                self.trouble.take_if(|trouble| trouble == TAKEN_OFF);
                self.stand_guard().map_err(failed)?;
            }
            GateCommand::Detach => {
                self.taken_off = true;
                self.trouble = Some(TAKEN_OFF.into());
                self.stand_guard().map_err(failed)?;
                info!("{TAKEN_OFF}");
            }
        }
        Ok(())
    }

    /// All networks with a rule, if they are others than when this was last asked.
    pub(super) fn newly_listed(&mut self) -> Option<Networks> {
        std::mem::take(&mut self.newly_listed).then(|| self.networks())
    }

    /// Networks with a rule.
    pub(super) fn networks(&self) -> Networks {
        self.lists.all(boot_clock())
    }

    fn tell_rules(&mut self, now: Duration) {
        self.newly_listed = true;
        let rules = self.lists.all(now).rules();
        if let Some(Err(error)) = self.gate.as_mut().map(|gate| gate.set_rules(&rules)) {
            self.complain(&error.to_string());
        }
    }

    /// Takes the gate down; without this it stays, and goes on filtering, after the process has gone.
    pub(super) fn detach(&mut self) {
        if let Some(gate) = self.gate.take()
            && let Err(error) = gate.detach()
        {
            self.complain(&error.to_string());
        }
    }

    fn refresh_addresses(&mut self) {
        let present: BTreeSet<IpAddr> = if self.listen.is_empty() {
            local_addresses()
                .into_iter()
                .map(|(_, _, address)| address)
                .collect()
        } else {
            self.listen.iter().copied().collect()
        };
        // Without any address the gate would judge packets that only pass through.
        if present.is_empty() || present == self.addresses {
            return;
        }
        let list: Vec<IpAddr> = present.iter().copied().collect();
        match self
            .gate
            .as_mut()
            .map(|gate| gate.set_local_addresses(&list, &broadcast_addresses()))
        {
            Some(Err(error)) => self.complain(&error.to_string()),
            _ => self.addresses = present,
        }
    }

    fn own_interfaces(&self) -> Vec<String> {
        let ours = |address: &IpAddr| self.listen.is_empty() || self.listen.contains(address);
        let names: BTreeSet<String> = local_addresses()
            .into_iter()
            .filter(|(flags, ..)| !flags.contains(InterfaceFlags::IFF_LOOPBACK))
            .filter(|(_, _, address)| ours(address))
            .map(|(_, name, _)| name)
            .collect();
        names.into_iter().collect()
    }

    /// Once for each trouble: the heartbeat would repeat it five times a second.
    fn complain(&mut self, text: &str) {
        if self.trouble.as_deref() != Some(text) {
            warn!("gate: {text}");
            self.trouble = Some(text.into());
        }
    }
}

/// Addresses of this host with their interfaces. Those that a service has on the loopback device
/// are reached from everywhere; those that are loopback from nowhere.
fn local_addresses() -> Vec<(InterfaceFlags, String, IpAddr)> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    all.filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|entry| {
            let storage = entry.address?;
            let address = match storage.as_sockaddr_in() {
                Some(v4) => IpAddr::V4(v4.ip()),
                None => IpAddr::V6(storage.as_sockaddr_in6()?.ip()),
            };
            Some((entry.flags, entry.interface_name, address))
        })
        .filter(|(_, _, address)| !address.is_loopback())
        .collect()
}

/// What no single host answers to on our networks: the gate never sends there.
fn broadcast_addresses() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    all.filter(|entry| entry.flags.contains(InterfaceFlags::IFF_BROADCAST))
        .filter_map(|entry| Some(IpAddr::V4(entry.broadcast?.as_sockaddr_in()?.ip())))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_epoch_whose_bits_cannot_be_read_has_no_slot() {
        let memory = tempfile::tempfile().expect("file");
        memory.set_len((board::WORDS * 8) as u64).expect("length");
        let board = Board::map(&memory).expect("map");
        let mut slots = UsedSlots::default();
        board.set_used(0, 7);
        // Cut short, as by a disk that is full.
        let mut bitmap = tempfile::tempfile().expect("file");
        bitmap.write_all(&[0xff; 5000]).expect("write");
        slots.give(3, &bitmap, &board);
        assert_eq!(slots.of(3), None);
        // The slot goes to one whose bits are there, without those of another.
        bitmap.set_len(3 << 20).expect("length");
        slots.give(4, &bitmap, &board);
        assert_eq!(slots.of(4), Some(0));
        // Behind a header of 4,096 octets, the rest of what was written.
        let last = 8 * (5000 - 4096) - 1;
        assert!(board.is_used(0, last) && !board.is_used(0, last + 1));
    }
}
