//! Octets to values and back (RFC 7296, 3). Parsers never panic, never allocate on a length that
//! the datagram does not hold, and say where they stopped.

pub mod cp;
pub mod cursor;
pub mod delete;
pub mod encrypted;
pub mod fragment;
pub mod header;
pub mod id;
pub(crate) mod name;
pub mod notify;
pub mod pattern;
pub mod payload;
pub mod redirect;
pub mod sa;
pub mod ts;

use thiserror::Error;

/// Why octets are not an IKE message. `at` counts octets from the start of the slice parsed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum WireError {
    /// The input ends before the field does.
    #[error("truncated at octet {at}: {needed} more octets needed")]
    Truncated {
        /// Where the field starts.
        at: usize,
        /// How many octets are missing.
        needed: usize,
    },
    /// A length field that cannot be right.
    #[error("length field at octet {at} is wrong")]
    Length {
        /// Where the structure with the length starts.
        at: usize,
    },
    /// A field with a value that has no meaning here.
    #[error("{field} has value {value}")]
    Value {
        /// The RFC's name of the field.
        field: &'static str,
        /// What was there.
        value: u32,
    },
    /// More of something than we accept.
    #[error("more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A major version other than 2 (RFC 7296, 2.5).
    #[error("major version {0}")]
    Version(u8),
    /// A payload marked critical that we do not know (RFC 7296, 2.5).
    #[error("unknown critical payload {0}")]
    Critical(u8),
}
