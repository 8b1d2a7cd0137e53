//! What the engine posts on the gate's board, so that the gate turns away what belongs to no SA and
//! lets through what was admitted. Without a gate there is no board, and nothing to do.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use gate_abi::{
    board::{LIVE_BITS, live_index},
    cookie::CookieInput,
    spi::OurSpi,
};

use crate::gate::{Board, mapped};

/// What all workers of an engine post on.
#[derive(Debug)]
pub(super) struct Notices {
    board: Arc<Board>,
    /// Live SPIs of each bit: two may share one, and be of different workers.
    live: Box<[AtomicU16]>,
}

impl Notices {
    /// Wipes what an earlier engine has posted: none of its SAs is live.
    pub(super) fn begin(board: Arc<Board>) -> Arc<Self> {
        board.clear_engine();
        Arc::new(Self {
            board,
            live: (0..LIVE_BITS).map(|_| AtomicU16::new(0)).collect(),
        })
    }

    fn own_spi(&self, spi: OurSpi, live: bool) {
        let Some(sharing) = self.live.get(live_index(spi) as usize) else {
            return;
        };
        // Of 2^32 serials, 4,096 share a bit, for each worker: no count overflows.
        if live {
            sharing.fetch_add(1, Ordering::SeqCst);
            return self.board.set_live(spi, true);
        }
        let one_less = |count: u16| count.checked_sub(1);
        if sharing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) == Ok(1) {
            self.board.set_live(spi, false);
            // Another worker may have set it before we made it zero. Nobody has heard of its SPI yet.
            if sharing.load(Ordering::SeqCst) > 0 {
                self.board.set_live(spi, true);
            }
        }
    }
}

/// A worker's part of the board.
#[derive(Debug)]
pub(super) struct Posted {
    notices: Option<Arc<Notices>>,
    half_open: usize,
}

impl Posted {
    pub(super) const fn new(notices: Option<Arc<Notices>>) -> Self {
        Self {
            notices,
            half_open: 0,
        }
    }

    pub(super) fn own_spi(&self, spi: [u8; 8], live: bool) {
        if let Some(notices) = &self.notices {
            notices.own_spi(OurSpi::from_wire(spi), live);
        }
    }

    pub(super) fn admitted(
        &self,
        spi_i: [u8; 8],
        source: IpAddr,
        nonce_head: [u8; 16],
        now: Duration,
    ) {
        let Some(Notices { board, .. }) = self.notices.as_deref() else {
            return;
        };
        // Of a cookie's input, only the first three tell a repetition.
        let message = CookieInput {
            spi_i,
            source: mapped(&source),
            nonce_head,
            ticket_tag: 0,
            exchange: 0,
            destination_digest: 0,
        };
        board.admit(&message, now.as_secs());
    }

    /// To be called after each turn: while nothing is reported, nothing waits.
    pub(super) fn queue_delay(&self, delay: Duration) {
        if let Some(notices) = &self.notices {
            notices.board.report_queue_delay(delay);
        }
    }

    pub(super) fn half_open(&mut self, count: usize) {
        if let Some(notices) = &self.notices
            && self.half_open != count
        {
            let before = std::mem::replace(&mut self.half_open, count);
            notices.board.set_half_open(count as u64, before as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_bit_stays_until_the_last_spi_that_shares_it_is_gone() {
        let file = tempfile::tempfile().expect("file");
        file.set_len((gate_abi::board::WORDS * 8) as u64)
            .expect("length");
        let board = Arc::new(Board::map(&file).expect("map"));
        let notices = Notices::begin(Arc::clone(&board));
        let workers = [(); 2].map(|()| Posted::new(Some(Arc::clone(&notices))));
        // Alike in the lower 20 bits of their serials.
        let spis = [0x0100_0001_2345_aaaa_u64, 0x0101_0f01_2345_bbbb].map(u64::to_be_bytes);
        let is_live = || board.is_live(OurSpi::from_wire(spis[0]));
        for (worker, spi) in workers.iter().zip(spis) {
            worker.own_spi(spi, true);
        }
        workers[0].own_spi(spis[0], false);
        assert!(is_live());
        workers[1].own_spi(spis[1], false);
        assert!(!is_live());
        // Twice gone is no more than gone.
        workers[1].own_spi(spis[1], false);
        workers[1].own_spi(spis[1], true);
        assert!(is_live());
        Notices::begin(Arc::clone(&board));
        assert!(!is_live());
    }

    #[test]
    fn workers_that_share_a_bit_never_lose_it_between_them() {
        const TIMES: usize = 20_000;
        let file = tempfile::tempfile().expect("file");
        file.set_len((gate_abi::board::WORDS * 8) as u64)
            .expect("length");
        let board = Arc::new(Board::map(&file).expect("map"));
        let notices = Notices::begin(Arc::clone(&board));
        let spi = OurSpi(0x0100_0001_2345_aaaa);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..TIMES {
                        notices.own_spi(spi, true);
                        // The other may be between its two looks.
                        let deadline = Instant::now() + Duration::from_secs(10);
                        while !board.is_live(spi) {
                            assert!(Instant::now() < deadline);
                            std::thread::yield_now();
                        }
                        notices.own_spi(spi, false);
                    }
                });
            }
        });
        assert!(!board.is_live(spi));
    }
}
