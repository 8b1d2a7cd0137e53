//! Delete payloads (RFC 7296, 3.11).

use super::{WireError, cursor::Cursor, sa::PROTOCOL_ESP, sa::PROTOCOL_IKE};

/// What a peer deletes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Delete {
    /// The IKE SA that carries the message.
    IkeSa,
    /// Child SAs, by the SPIs of the sender's inbound side.
    Esp(Vec<u32>),
}

impl Delete {
    /// SPIs accepted in one payload.
    pub const MAX_SPIS: usize = 64;

    /// Reads the body of a Delete payload.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let [protocol, spi_size] = cursor.array()?;
        let count = usize::from(cursor.u16()?);
        match (protocol, spi_size) {
            (PROTOCOL_IKE, 0) if cursor.is_empty() => Ok(Self::IkeSa),
            (PROTOCOL_ESP, 4) if count > Self::MAX_SPIS => Err(WireError::TooMany {
                what: "SPIs to delete",
                limit: Self::MAX_SPIS,
            }),
            (PROTOCOL_ESP, 4) if cursor.left() == 4 * count => (0..count)
                .map(|_| cursor.u32())
                .collect::<Result<_, _>>()
                .map(Self::Esp),
            _ => Err(WireError::Length { at: 0 }),
        }
    }

    /// Appends the body of a Delete payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::IkeSa => out.extend_from_slice(&[PROTOCOL_IKE, 0, 0, 0]),
            Self::Esp(spis) => {
                out.extend_from_slice(&[PROTOCOL_ESP, 4]);
                out.extend_from_slice(&(spis.len() as u16).to_be_bytes());
                for spi in spis {
                    out.extend_from_slice(&spi.to_be_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_read_back() {
        for delete in [Delete::IkeSa, Delete::Esp(vec![0xc0ff_ee01, 2])] {
            let mut body = Vec::new();
            delete.emit(&mut body);
            assert_eq!(Delete::parse(&body), Ok(delete));
        }
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        assert!(Delete::parse(&[3, 4, 0, 2, 1, 2, 3, 4]).is_err());
        assert!(Delete::parse(&[3, 4, 255, 255]).is_err());
        assert!(Delete::parse(&[1, 8, 0, 1]).is_err());
    }
}
