//! Recorded IKE messages made wrong: cut, stretched, looped and bent. None of them is what it was
//! made from, so none can be taken for a retransmission.

use gate_abi::ike::{GENERIC_HEADER_LEN, HEADER_LEN};

use crate::chance::Chance;

/// All that is made of one message.
#[must_use]
pub fn variants(message: &[u8], chance: &mut Chance) -> Vec<Vec<u8>> {
    let mut made: Vec<Vec<u8>> = Vec::new();
    for length in cuts(message.len()) {
        let cut = message[..length].to_vec();
        made.push(cut.clone());
        // The same with a header that owns up to it, so that it dies further in.
        made.extend(with_right_length(cut));
    }
    for more in [1, 4, 1000] {
        let mut long = message.to_vec();
        long.resize(message.len() + more, 0);
        made.push(long.clone());
        made.extend(with_right_length(long));
    }
    // Payload lengths that lead nowhere, back, and beyond the end.
    for length in [0_u16, 3, 5, u16::MAX] {
        let mut looped = message.to_vec();
        let field = HEADER_LEN + 2..HEADER_LEN + GENERIC_HEADER_LEN;
        if let Some(field) = looped.get_mut(field) {
            field.copy_from_slice(&length.to_be_bytes());
            made.push(looped);
        }
    }
    for number in 0..BENT {
        let mut bent = message.to_vec();
        // Half of them where the structure is.
        let reach = if number % 2 == 0 {
            STRUCTURE
        } else {
            usize::MAX
        };
        for _ in 0..=chance.below(3) {
            let at = chance.below(bent.len().min(reach));
            bent[at] ^= 1 << chance.below(8);
        }
        made.push(bent);
    }
    made.retain(|one| one != message);
    made
}

/// Lengths to cut at: all of the header's, then one in seven.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let fine = HEADER_LEN + 2 * GENERIC_HEADER_LEN;
    (0..length).filter(move |cut| *cut < fine || cut % 7 == 0)
}

/// With the length field of the header set to what the message has; `None` if it has no such field.
fn with_right_length(mut message: Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::try_from(message.len()).ok()?;
    let field = message.get_mut(HEADER_LEN - 4..HEADER_LEN)?;
    field.copy_from_slice(&length.to_be_bytes());
    Some(message)
}

/// Messages with one to three bits turned.
const BENT: usize = 120;
/// Octets in which most of a clear message's structure is.
const STRUCTURE: usize = 96;

#[cfg(test)]
mod tests {
    use gate_abi::frames::Message;

    use super::*;

    #[test]
    fn all_kinds_are_made_and_none_is_the_message_itself() {
        let message = Message::sa_init().octets();
        let made = variants(&message, &mut Chance::seeded(1));
        assert!(made.len() > BENT, "{}", made.len());
        assert!(made.iter().all(|one| *one != message));
        assert!(made.iter().any(Vec::is_empty));
        assert!(made.iter().any(|one| one.len() > message.len()));
        assert!(made.iter().any(|one| one.len() == message.len()));
        for length in 1..=HEADER_LEN {
            let short = vec![1; length];
            let made = variants(&short, &mut Chance::seeded(2));
            assert!(made.iter().all(|one| *one != short));
        }
    }
}
