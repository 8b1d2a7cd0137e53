//! What the engine posts on the gate's board, so that the gate turns away what belongs to no SA and
//! lets through what was admitted. Without a gate there is no board, and nothing to do.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use gate_abi::{
    board::{Bit, live_bit},
    cookie::CookieInput,
    spi::OurSpi,
};

use crate::gate::{Board, mapped};

/// The engine's part of the board.
#[derive(Debug)]
pub(super) struct Posted {
    board: Option<Arc<Board>>,
    /// Live SPIs of each bit that has any: two may share one.
    live: HashMap<Bit, u32>,
    half_open: usize,
}

impl Posted {
    /// Wipes what an earlier engine has posted: none of its SAs is live.
    pub(super) fn new(board: Option<Arc<Board>>) -> Self {
        if let Some(board) = &board {
            board.clear_engine();
        }
        Self {
            board,
            live: HashMap::new(),
            half_open: 0,
        }
    }

    pub(super) fn own_spi(&mut self, spi: [u8; 8], live: bool) {
        let Some(board) = &self.board else {
            return;
        };
        let spi = OurSpi::from_wire(spi);
        let sharing = self.live.entry(live_bit(spi)).or_default();
        *sharing = if live {
            *sharing + 1
        } else {
            sharing.saturating_sub(1)
        };
        match *sharing {
            0 => {
                self.live.remove(&live_bit(spi));
                board.set_live(spi, false);
            }
            _ => board.set_live(spi, true),
        }
    }

    pub(super) fn admitted(
        &self,
        spi_i: [u8; 8],
        source: IpAddr,
        nonce_head: [u8; 16],
        now: Duration,
    ) {
        let Some(board) = &self.board else {
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

    pub(super) fn half_open(&mut self, count: usize) {
        if let Some(board) = &self.board
            && self.half_open != count
        {
            self.half_open = count;
            board.set_half_open(count as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_stays_until_the_last_spi_that_shares_it_is_gone() {
        let file = tempfile::tempfile().expect("file");
        file.set_len((gate_abi::board::WORDS * 8) as u64)
            .expect("length");
        let board = Arc::new(Board::map(&file).expect("map"));
        let mut posted = Posted::new(Some(Arc::clone(&board)));
        // Alike in the lower 20 bits of their serials.
        let spis = [0x0100_0001_2345_aaaa_u64, 0x0100_0f01_2345_bbbb].map(u64::to_be_bytes);
        let is_live = || board.is_live(OurSpi::from_wire(spis[0]));
        for spi in spis {
            posted.own_spi(spi, true);
        }
        posted.own_spi(spis[0], false);
        assert!(is_live());
        posted.own_spi(spis[1], false);
        assert!(!is_live() && posted.live.is_empty());
        // Twice gone is no more than gone.
        posted.own_spi(spis[1], false);
        posted.own_spi(spis[1], true);
        assert!(is_live());
        assert!(Posted::new(Some(Arc::clone(&board))).live.is_empty());
        assert!(!is_live());
    }
}
