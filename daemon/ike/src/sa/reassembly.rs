//! Fragments of a message on their way to being one again (RFC 7383, 2.6). Only what has been opened
//! under the SA's keys is kept, of one message in each direction, within bounds.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use crate::{
    crypto::cipher::Cipher,
    wire::{
        encrypted::{OpenError, Plain},
        fragment::Fragment,
        header::{Exchange, Header},
        payload::PayloadKind,
    },
};

/// Fragments of one message. At the smallest size that an operator can set, they hold more than
/// [`MAX_OCTETS`].
pub(crate) const MAX_FRAGMENTS: u16 = 64;

/// Octets of one message, without their protection: a chain of four long RSA certificates has about 6,000.
pub(crate) const MAX_OCTETS: usize = 16 << 10;

/// How long the rest of a message may take: as long as we would repeat a request of ours.
const PATIENCE: Duration = Duration::from_secs(32);

/// A message that was opened.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub plain: Plain,
    /// What its repetition is known by: the message, or its first fragment (RFC 7383, 2.6.1).
    pub known_by: Cow<'a, [u8]>,
}

/// The fragments of one message so far.
#[derive(Debug)]
pub(crate) struct Reassembly {
    exchange: Exchange,
    message_id: u32,
    total: u16,
    /// Kind of the message's first payload, and the fragment that says so, as it came.
    first: (PayloadKind, Vec<u8>),
    texts: BTreeMap<u16, Vec<u8>>,
    octets: usize,
    until: Duration,
}

impl Reassembly {
    fn new(header: &Header, total: u16, now: Duration) -> Self {
        Self {
            exchange: header.exchange,
            message_id: header.message_id,
            total,
            first: (PayloadKind::NONE, Vec::new()),
            texts: BTreeMap::new(),
            octets: 0,
            until: now + PATIENCE,
        }
    }

    /// When it is given up.
    pub(crate) const fn until(&self) -> Duration {
        self.until
    }

    /// Octets that are kept.
    pub(crate) const fn octets(&self) -> usize {
        self.octets + self.first.1.len()
    }

    /// Takes in a fragment of the message that is waited for. `Some` when that is whole; the place is
    /// empty then.
    pub(crate) fn add<'a>(
        place: &mut Option<Box<Self>>,
        header: &Header,
        message: &'a [u8],
        cipher: &Cipher,
        now: Duration,
    ) -> Result<Option<Received<'a>>, OpenError> {
        let fragment = Fragment::parse(header, message)?;
        if fragment.total > MAX_FRAGMENTS {
            return Err(OpenError::Unfit);
        }
        let same = |held: &&mut Box<Self>| {
            (held.exchange, held.message_id) == (header.exchange, header.message_id)
        };
        let held = place.as_mut().filter(same);
        let unfit = |held: &&mut Box<Self>| {
            // Fewer than before: an older set. The same again: a replay.
            let replay = fragment.total == held.total && held.texts.contains_key(&fragment.number);
            fragment.total < held.total || replay
        };
        if held.as_ref().is_some_and(unfit) {
            return Err(OpenError::Unfit);
        }
        let text = fragment.open(cipher)?;
        // More than before: the peer has begun anew with smaller ones.
        let held = match held.filter(|held| held.total == fragment.total) {
            Some(held) => held,
            None => place.insert(Box::new(Self::new(header, fragment.total, now))),
        };
        held.octets += text.len();
        if held.octets > MAX_OCTETS {
            *place = None;
            return Err(OpenError::TooLong);
        }
        if fragment.number == 1 {
            held.first = (fragment.first, message.to_vec());
        }
        held.texts.insert(fragment.number, text);
        if held.texts.len() < usize::from(held.total) {
            return Ok(None);
        }
        Ok(place.take().map(|whole| whole.merged()))
    }

    fn merged<'a>(self) -> Received<'a> {
        let (first, message) = self.first;
        let octets = self.texts.into_values().flatten().collect();
        Received {
            plain: Plain { first, octets },
            known_by: Cow::Owned(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Encryption, Secret},
        wire::{fragment, payload::ChainWriter},
    };

    const NOW: Duration = Duration::from_secs(1);

    fn cipher() -> Cipher {
        let encryption = Encryption::AesGcm128;
        let key = Secret::new(vec![5; encryption.key_and_salt_len()]);
        Cipher::new(encryption, &key, &Secret::default()).expect("length")
    }

    fn header(message_id: u32) -> Header {
        Header {
            spi_i: [1; 8],
            spi_r: [2; 8],
            next: PayloadKind::NONE,
            exchange: Exchange::IkeAuth,
            from_initiator: true,
            response: false,
            message_id,
        }
    }

    /// A message with a certificate of so many octets, in fragments of so many.
    fn fragments(message_id: u32, octets: usize, limit: usize) -> Vec<Vec<u8>> {
        let mut chain = ChainWriter::new();
        chain.octets(PayloadKind::CERT, &vec![message_id as u8; octets]);
        fragment::seal(&header(message_id), chain, limit, &mut 0, &cipher())
    }

    fn add(
        place: &mut Option<Box<Reassembly>>,
        message: &[u8],
    ) -> Result<Option<Vec<u8>>, OpenError> {
        let (header, _) = Header::parse(message).expect("header");
        let received = Reassembly::add(place, &header, message, &cipher(), NOW)?;
        Ok(received.map(|received| {
            assert_eq!(received.plain.first, PayloadKind::CERT);
            received.plain.octets
        }))
    }

    #[test]
    fn in_whatever_order_they_come_the_message_is_the_same() {
        let all = fragments(1, 700, 250);
        let mut orders = vec![all.clone(), all.iter().rev().cloned().collect()];
        orders.push([&all[2..], &all[..2]].concat());
        for order in orders {
            let mut place = None;
            let (last, others) = order.split_last().expect("some");
            for message in others {
                assert_eq!(add(&mut place, message), Ok(None));
                assert_eq!(add(&mut place, message), Err(OpenError::Unfit), "a replay");
            }
            let whole = add(&mut place, last).expect("opens").expect("whole");
            assert_eq!(whole.len(), 704);
            assert!(place.is_none());
        }
    }

    #[test]
    fn smaller_fragments_begin_anew_and_larger_ones_are_late() {
        let (large, small) = (fragments(1, 700, 400), fragments(1, 700, 200));
        let mut place = None;
        assert_eq!(add(&mut place, &large[0]), Ok(None));
        for message in &small[1..] {
            assert_eq!(add(&mut place, message), Ok(None));
        }
        assert_eq!(add(&mut place, &large[1]), Err(OpenError::Unfit));
        assert!(add(&mut place, &small[0]).expect("opens").is_some());
    }

    #[test]
    fn another_message_takes_the_place() {
        let (one, other) = (fragments(1, 700, 400), fragments(2, 700, 400));
        let mut place = None;
        assert_eq!(add(&mut place, &one[0]), Ok(None));
        for message in &other[1..] {
            assert_eq!(add(&mut place, message), Ok(None));
        }
        assert!(add(&mut place, &other[0]).expect("opens").is_some());
    }

    #[test]
    fn nothing_forged_is_kept_or_takes_a_place() {
        let all = fragments(1, 700, 250);
        let mut place = None;
        assert_eq!(add(&mut place, &all[0]), Ok(None));
        let before = place.as_ref().map(|held| held.octets());
        for number in 1..=all.len() {
            // A later set by its number, were it not for the check.
            for total in [all.len() as u16, 60] {
                let mut forged = all[number - 1].clone();
                forged[34..36].copy_from_slice(&total.to_be_bytes());
                forged[40] ^= 1;
                let refused = add(&mut place, &forged).expect_err("forged");
                assert!(matches!(refused, OpenError::Corrupt | OpenError::Unfit));
            }
        }
        assert_eq!(place.as_ref().map(|held| held.octets()), before);
        for message in &all[1..all.len() - 1] {
            assert_eq!(add(&mut place, message), Ok(None));
        }
        assert!(
            add(&mut place, &all[all.len() - 1])
                .expect("opens")
                .is_some()
        );
    }

    #[test]
    fn too_many_and_too_long_are_refused() {
        let many = fragments(1, 2000, 90);
        assert!(many.len() > usize::from(MAX_FRAGMENTS));
        let mut place = None;
        assert_eq!(add(&mut place, &many[0]), Err(OpenError::Unfit));
        assert!(place.is_none());

        let long = fragments(1, MAX_OCTETS, 1000);
        assert!(long.len() < usize::from(MAX_FRAGMENTS));
        let mut refused = long
            .iter()
            .filter_map(|message| add(&mut place, message).err());
        assert_eq!(refused.next(), Some(OpenError::TooLong));
        assert_eq!(refused.next(), None);
        drop(refused);
        assert!(place.is_none_or(|held| held.octets() < 2000));

        let fits = fragments(1, MAX_OCTETS - 4, 1000);
        let mut place = None;
        let whole = fits
            .iter()
            .find_map(|message| add(&mut place, message).expect("opens"));
        assert!(whole.is_some());
    }
}
