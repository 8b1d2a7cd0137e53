//! What one endpoint is allowed, and which of a gateway's workers it is.

/// Bounds and numbers of one endpoint. Configuration may lower the bounds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This gateway's number among those that share ticket keys.
    pub node: u8,
    /// This worker's number on the gateway, below [`super::MAX_WORKERS`].
    pub worker: u8,
    /// How many workers the gateway has. Each has its part of what strangers get in a second.
    pub workers: u8,
    /// Port of first messages.
    pub ike_port: u16,
    /// Port once NAT is found.
    pub natt_port: u16,
    /// IKE SAs in all.
    pub max_sas: usize,
    /// SAs that are over and kept for a repetition of their last answer; they take no place in `max_sas`.
    pub max_lingering: usize,
    /// Half-open SAs in all; each is a slot of about 1 KB.
    pub max_half_open: usize,
    /// Octets of fragments that half-open SAs wait with, in all.
    pub max_half_open_octets: usize,
    /// Half-open SAs in all from which on everybody needs a cookie.
    pub cookie_from: usize,
    /// Half-open SAs of one network from which on it needs a cookie.
    pub cookie_from_network: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: 1,
            worker: 0,
            workers: 1,
            ike_port: 500,
            natt_port: 4500,
            max_sas: 100_000,
            max_lingering: 4096,
            max_half_open: 8192,
            // A thousand messages of the longest kind.
            max_half_open_octets: 16 << 20,
            cookie_from: 1024,
            cookie_from_network: 32,
        }
    }
}

impl Settings {
    /// One worker's part of these, which are a whole gateway's. First messages come to all workers
    /// alike, so each has its part of the room, and together they have no more than one alone.
    #[must_use]
    pub fn part_of(self, worker: u8, workers: u8) -> Self {
        let part = |whole: usize| whole.div_ceil(usize::from(workers.max(1)));
        Self {
            worker,
            workers,
            max_sas: part(self.max_sas),
            max_lingering: part(self.max_lingering),
            max_half_open: part(self.max_half_open),
            max_half_open_octets: part(self.max_half_open_octets),
            cookie_from: part(self.cookie_from),
            cookie_from_network: self.cookie_from_network.div_ceil(u32::from(workers.max(1))),
            ..self
        }
    }

    /// The worker whose IKE SA has this number.
    #[must_use]
    pub const fn worker_of(sa: u64, workers: u8) -> u8 {
        if workers == 0 {
            return 0;
        }
        (sa.saturating_sub(1) % workers as u64) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_all_workers_are_the_whole() {
        let whole = Settings::default();
        let parts: Vec<_> = (0..4).map(|worker| whole.part_of(worker, 4)).collect();
        let sum = |bound: fn(&Settings) -> usize| parts.iter().map(bound).sum::<usize>();
        assert_eq!(sum(|part| part.max_sas), whole.max_sas);
        assert_eq!(sum(|part| part.max_lingering), whole.max_lingering);
        assert_eq!(sum(|part| part.max_half_open), whole.max_half_open);
        assert_eq!(sum(|part| part.cookie_from), whole.cookie_from);
        assert_eq!(parts[0].cookie_from_network, whole.cookie_from_network / 4);
        let alone = whole.part_of(0, 1);
        assert_eq!(format!("{alone:?}"), format!("{whole:?}"));
        // Never none at all, but for whoever wants a cookie from everybody.
        let few = Settings {
            max_half_open: 3,
            cookie_from: 0,
            ..whole
        };
        let part = few.part_of(7, 8);
        assert_eq!((part.max_half_open, part.cookie_from), (1, 0));
    }
}
