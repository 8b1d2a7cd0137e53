//! SPIs of our own: those of IKE SAs never come twice within 2^32 and carry a check that the gate knows;
//! those of ESP states are drawn, each worker's from a part of their own.

use gate_abi::{
    sip::SipKey,
    spi::{OurSpi, permute32},
};

use super::{Endpoint, Settings};
use crate::{io::Env, wire::header::Spi};

/// Workers of one gateway. The kernel has one table of ESP states for all of them, so the upper three
/// bits of an ESP SPI are its worker's number.
pub const MAX_WORKERS: u8 = 1 << WORKER_BITS;
const WORKER_BITS: u32 = 3;

impl Endpoint {
    /// New SPI keys: the present `k_spi`, then the one before.
    pub const fn set_spi_keys(&mut self, keys: [SipKey; 2]) {
        self.spi_keys = keys;
    }

    /// A fresh SPI that no SA of ours has.
    pub(crate) fn new_spi(&mut self) -> Spi {
        loop {
            let [current, _] = &self.spi_keys;
            let serial = permute32(&self.spi_order, self.spi_count);
            self.spi_count = self.spi_count.wrapping_add(1);
            let Settings { node, worker, .. } = self.settings;
            let spi = OurSpi::compose(node, worker, serial, current).to_wire();
            // Ends: the table is smaller than the 2^32 values the counter runs through.
            if spi != [0; 8] && self.table.by_spi(spi).is_none() {
                return spi;
            }
        }
    }

    /// A fresh SPI for an inbound ESP state, which no other worker draws; 1 to 255 are reserved
    /// (RFC 4303, 2.1).
    pub(crate) fn new_esp_spi(&self, env: &mut dyn Env) -> u32 {
        loop {
            let mut octets = [0; 4];
            env.random(&mut octets);
            let of_worker = u32::from(self.settings.worker) << (u32::BITS - WORKER_BITS);
            let spi = of_worker | u32::from_be_bytes(octets) >> WORKER_BITS;
            if spi > 255 && !self.table.has_esp_spi(spi) {
                return spi;
            }
        }
    }
}
