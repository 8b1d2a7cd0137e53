//! What a first message must show before it costs us anything (RFC 7296, 2.6; RFC 8019).

pub mod allowance;
pub mod budget;
pub mod cookie;
pub mod openings;
pub mod pace;
pub mod rules;
