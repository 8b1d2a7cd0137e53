//! The control socket: newline-delimited JSON on a Unix socket, turned into [`ControlRequest`]s on a
//! bounded queue. Nothing here waits for the engine longer than a deadline, and a slow client costs
//! nobody but itself.

mod convert;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use self::convert::rfc3339;
pub use self::{
    request::{
        ChildCommand, CommandError, ConnectionReport, ConnectionStart, ConnectionState,
        ControlRequest, EpochReport, FailureReport, FloodReport, GateReport, GateVerdict,
        LogCommand, LogReport, RekeyDone, RevocationReport, RevokeDone, SaReport, StatusReport,
        TicketReport, Traffic, UpDone,
    },
    server::{MAX_CLIENTS, QUEUE, RESULT_SLACK, listen},
};
