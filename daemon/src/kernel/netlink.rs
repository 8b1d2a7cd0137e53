//! A netlink socket, of xfrm or of routes: batches with one acknowledgement, dumps, and the kernel's own words when
//! it refuses.
//!
//! A batch is not a transaction. The kernel carries out its messages in order, answers each failure
//! unasked and goes on, so results are collected by sequence number and undoing is the caller's part.

use std::{io, os::fd::AsFd};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use super::{
    DataplaneError,
    wire::{HEADER, NLM_F_ACK, Request, attributes, u16_at, u32_at},
};

/// Messages in one send. The kernel refuses sends above about 200 kB and its answers have to fit the
/// receive buffer.
const MAX_BATCH: usize = 256;
const BUFFER: usize = 4 << 20;
const READ: usize = 64 << 10;
/// The kernel answers within the send; this only keeps a surprise from stopping us for ever.
const PATIENCE_SECONDS: i64 = 5;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// With NETLINK_CAP_ACK an error carries its code and the request's header, then attributes.
const EXTENDED_ACK: usize = 4 + HEADER;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A refusal of one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// `what: the kernel's text (ERRNO)`.
    pub(super) text: String,
}

/// The socket on which we change things.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Zeroizing<Vec<u8>>,
}

impl Netlink {
    /// Opens a socket of one of the kernel's families.
    pub(super) fn open(family: isize) -> io::Result<Self> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &BUFFER)?;
        }
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Zeroizing::new(Vec::with_capacity(READ)),
        })
    }

    /// Sends the requests in as few messages as fit, and returns how each of them went.
    pub(super) fn transact(
        &mut self,
        requests: &mut [Request],
    ) -> io::Result<Vec<Result<(), Refusal>>> {
        self.transact_reading(requests, |_, _| {})
    }

    /// The same; of requests that are questions, `read` gets the answers, with the place of the question.
    pub(super) fn transact_reading(
        &mut self,
        requests: &mut [Request],
        mut read: impl FnMut(usize, &[u8]),
    ) -> io::Result<Vec<Result<(), Refusal>>> {
        let mut results = Vec::with_capacity(requests.len());
        for batch in requests.chunks_mut(MAX_BATCH) {
            self.batch(batch, &mut results, &mut read)?;
        }
        Ok(results)
    }

    /// Sends requests whose refusal changes nothing.
    pub(super) fn offer(&mut self, mut requests: Vec<Request>) {
        if let Err(error) = self.transact(&mut requests) {
            warn!("netlink socket: {error}");
        }
    }

    fn batch(
        &mut self,
        batch: &mut [Request],
        results: &mut Vec<Result<(), Refusal>>,
        read: &mut impl FnMut(usize, &[u8]),
    ) -> io::Result<()> {
        let first = self.reserve(batch.len());
        let last = first.wrapping_add(batch.len() as u32 - 1);
        let start = results.len();
        let mut sent = Zeroizing::new(Vec::with_capacity(
            batch.iter().map(|request| request.octets.len()).sum(),
        ));
        for (sequence, request) in (first..=last).zip(batch.iter_mut()) {
            request.stamp(sequence, if sequence == last { NLM_F_ACK } else { 0 });
            // All our requests are multiples of four octets, so no padding in between.
            sent.extend_from_slice(&request.octets);
            results.push(Ok(()));
        }
        self.send(&sent)?;
        loop {
            let mut finished = false;
            self.receive(|kind, sequence, body| {
                let Some(place) = sequence
                    .checked_sub(first)
                    .map(|place| place as usize)
                    .filter(|place| *place < batch.len())
                else {
                    return;
                };
                if kind == NLMSG_ERROR {
                    results[start + place] = outcome(batch[place].what, body);
                    finished |= sequence == last;
                } else {
                    read(start + place, body);
                }
            })?;
            if finished {
                return Ok(());
            }
        }
    }

    /// One request whose answer is one record; `None` if the kernel says there is no such thing.
    pub(super) fn query<T>(
        &mut self,
        mut request: Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, DataplaneError> {
        let sequence = self.reserve(1);
        request.stamp(sequence, NLM_F_ACK);
        self.send(&request.octets)?;
        let mut found = None;
        let mut end = None;
        while end.is_none() {
            self.receive(|kind, of, body| match kind {
                _ if of != sequence => {}
                NLMSG_ERROR => end = Some(outcome(request.what, body)),
                _ => found = parse(body),
            })?;
        }
        match end {
            Some(Err(refusal)) if !matches!(refusal.errno, Errno::ESRCH | Errno::ENOENT) => {
                Err(DataplaneError::Refused {
                    what: request.what,
                    text: refusal.text,
                })
            }
            _ => Ok(found),
        }
    }

    /// Everything of one kind that the namespace holds, foreign ones included.
    pub(super) fn dump<T>(
        &mut self,
        mut request: Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, DataplaneError> {
        let sequence = self.reserve(1);
        request.stamp(sequence, 0);
        self.send(&request.octets)?;
        let mut records = Vec::new();
        let mut end = None;
        while end.is_none() {
            self.receive(|kind, of, body| match kind {
                _ if of != sequence => {}
                NLMSG_DONE => end = Some(Ok(())),
                NLMSG_ERROR => end = Some(outcome(request.what, body)),
                _ => records.extend(parse(body)),
            })?;
        }
        match end {
            Some(Err(refusal)) => Err(DataplaneError::Refused {
                what: request.what,
                text: refusal.text,
            }),
            _ => Ok(records),
        }
    }

    /// Sequence numbers for a batch, without a wrap inside it.
    fn reserve(&mut self, count: usize) -> u32 {
        let count = count as u32;
        if self
            .sequence
            .checked_add(count)
            .is_none_or(|last| last == u32::MAX)
        {
            self.sequence = 0;
        }
        let first = self.sequence + 1;
        self.sequence += count;
        first
    }

    fn send(&self, octets: &[u8]) -> io::Result<()> {
        let sent = self.socket.send_to(octets, &SocketAddr::new(0, 0), 0)?;
        if sent == octets.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Reads one datagram of answers. Dumps hold keys, so the buffer is wiped every time.
    fn receive(&mut self, mut each: impl FnMut(u16, u32, &[u8])) -> io::Result<()> {
        self.buffer.clear();
        let (_, from) = loop {
            match self.socket.recv_from(&mut *self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        // Only the kernel answers; anybody may send.
        if from.port_number() == 0 {
            let mut rest = self.buffer.as_slice();
            while let Some((kind, sequence, body, after)) = split(rest) {
                each(kind, sequence, body);
                rest = after;
            }
        }
        self.buffer.as_mut_slice().zeroize();
        Ok(())
    }
}

/// The first message: type, sequence number, body; and what follows it.
pub(super) fn split(octets: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32_at(octets, 0)? as usize;
    let body = octets.get(HEADER..length)?;
    let after = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(octets, 4)?, u32_at(octets, 8)?, body, after))
}

fn outcome(what: &'static str, body: &[u8]) -> Result<(), Refusal> {
    let code = u32_at(body, 0).unwrap_or_default().cast_signed();
    if code == 0 {
        return Ok(());
    }
    let errno = Errno::from_raw(code.saturating_neg());
    let said = attributes(body.get(EXTENDED_ACK..).unwrap_or_default())
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| {
            String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
        });
    let text = match said {
        Some(said) => format!("{what}: {said} ({errno:?})"),
        None => format!("{what}: {} ({errno:?})", errno.desc()),
    };
    Err(Refusal { errno, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_kept() {
        let mut body = (-38_i32).to_ne_bytes().to_vec();
        body.resize(EXTENDED_ACK, 0);
        body.extend_from_slice(&[13, 0, 1, 0]);
        body.extend_from_slice(b"No such \0\0\0\0");
        let refusal = outcome("adding an SA", &body).expect_err("refused");
        assert_eq!(refusal.errno, Errno::ENOSYS);
        assert_eq!(refusal.text, "adding an SA: No such  (ENOSYS)");
        let refusal = outcome("adding an SA", &body[..4]).expect_err("refused");
        assert!(refusal.text.ends_with("(ENOSYS)"));
        assert_eq!(outcome("x", &[0; 20]), Ok(()));
    }

    #[test]
    fn a_length_beyond_the_datagram_ends_the_walk() {
        let mut octets = vec![0; 16];
        octets[0] = 17;
        assert!(split(&octets).is_none());
        octets[0] = 15;
        assert!(split(&octets).is_none());
        octets[0] = 16;
        assert!(split(&octets).is_some());
    }
}
