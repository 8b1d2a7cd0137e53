//! The engine's types to those on the socket.

mod connection;
mod gate;
mod why;

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ike::{
    lease::{LeaseView, PoolView},
    view::{ChildView, HeldTicket, SaState, SaView, Side, hex, origin},
    wire::ts::TrafficSelector,
};
use ikectl_api as api;

pub(super) use self::{
    connection::{connection, traffic},
    gate::{flood, gate, refused},
    why::failure_of_peer,
};
use super::request::{
    CommandError, EpochReport, RevocationReport, SaReport, StatusReport, TicketReport, Traffic,
};

/// A Unix time as RFC 3339 in UTC.
pub(crate) fn rfc3339(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Years are counted from March, so that the leap day is a year's last (Gregorian, proleptic);
    // 719,468 days lie between 0000-03-01 and the epoch, 146,097 days make 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

/// `now` is Unix time.
pub(super) fn ike_sa(report: &SaReport, now: u64) -> api::IkeSa {
    let SaReport { view, traffic } = report;
    let suspended = view.state == SaState::Suspended;
    let vips = |side| {
        let leased = view.leased.addresses.iter().filter(|_| view.client == side);
        leased.map(ToString::to_string).collect()
    };
    let spi = |octets: &[u8; 8]| (*octets != [0; 8]).then(|| hex(octets));
    api::IkeSa {
        id: (!suspended).then_some(view.id),
        connection: view.connection.as_deref().map(str::to_owned),
        state: state(view.state),
        version: 2,
        initiator: view.initiator,
        spi_i: spi(&view.spis.0),
        spi_r: spi(&view.spis.1),
        local: api::Endpoint {
            vips: vips(Side::Local),
            ..endpoint(view.local_id.as_ref(), view.path.map(|path| path.local))
        },
        remote: api::Endpoint {
            nat: (!suspended).then_some(view.nat),
            vips: vips(Side::Remote),
            ..endpoint(view.remote_id.as_ref(), view.path.map(|path| path.remote))
        },
        proposal: view.suite.clone(),
        established: view
            .age
            .map(|age| rfc3339(now.saturating_sub(age.as_secs()))),
        established_age_seconds: view.age.map(|age| age.as_secs()),
        full_auth_age_seconds: view.full_auth_age.map(|age| age.as_secs()),
        resumed: view.resumed,
        resume_count: view.resume_count,
        pfs: view.fresh_keys.map(|fresh| {
            if fresh {
                api::Pfs::Yes
            } else {
                api::Pfs::Pending
            }
        }),
        ticket: ticket(view),
        held_in: view.held_in.map(|form| form.word().to_owned()),
        dns: view.leased.dns.iter().map(ToString::to_string).collect(),
        domains: view
            .leased
            .domains
            .iter()
            .map(|domain| domain.as_str().to_owned())
            .collect(),
        rekey_in_seconds: seconds(view.plans.rekey),
        reauth_in_seconds: seconds(view.plans.reauth),
        liveness_in_seconds: seconds(view.plans.liveness),
        ends_in_seconds: seconds(view.plans.end),
        children: view
            .children
            .iter()
            .zip(traffic)
            .map(|(view, traffic)| child(view, *traffic))
            .collect(),
    }
}

pub(super) fn status(report: StatusReport) -> api::Status {
    api::Status {
        uptime_seconds: report.uptime.as_secs(),
        pid: std::process::id(),
        connections: report.connections,
        ike_sas_established: report.established,
        ike_sas_half_open: report.half_open,
        suspended: report.suspended,
        child_sas: report.child_sas,
        full_logins: report.full_logins,
        resumed_logins: report.resumed_logins,
        failed_logins: report.failed_logins,
        tickets_issued: report.tickets_issued,
        tickets_refused: report.tickets_refused,
        ticket_key_id: report.ticket_key_id,
        counters: report
            .counters
            .into_iter()
            .map(|(reason, messages)| (reason.to_owned(), messages))
            .collect(),
        gate_mode: report.gate_mode.to_owned(),
        attention: report
            .attention
            .into_iter()
            .map(|text| api::Attention { text })
            .collect(),
    }
}

pub(super) fn tickets(report: TicketReport) -> api::Tickets {
    let epoch = |one: EpochReport| api::TicketEpoch {
        key_id: one.key_id,
        age_seconds: one.age.as_secs(),
        issues_for_seconds: one.issues_for.as_ref().map(Duration::as_secs),
        accepted_for_seconds: one.accepted_for.as_secs(),
    };
    let refusals = |(reason, tickets): (&str, u64)| api::TicketRefusals {
        reason: reason.to_owned(),
        tickets,
    };
    let held = |one: HeldTicket| api::HeldTicket {
        connection: one.connection.to_string(),
        suspended: one.suspended,
        gateway_id: one.gateway.to_string(),
        gateway_addr: one.path.remote.ip().to_string(),
        gateway_port: one.path.remote.port(),
        ticket_bytes: one.octets as u64,
        age_seconds: one.age.as_secs(),
        expires_in_seconds: one.left.as_ref().map(Duration::as_secs),
        resume_count: one.resume_count,
    };
    let revocation = |one: RevocationReport| api::TicketRevocation {
        peer: one.peer,
        age_seconds: one.age.as_secs(),
        refused_for_seconds: one.refused_for.as_secs(),
    };
    api::Tickets {
        epochs: report.epochs.into_iter().map(epoch).collect(),
        issued: report.issued,
        honoured: report.honoured,
        refused: report.refused.into_iter().map(refusals).collect(),
        outstanding: report.outstanding,
        held: report.held.into_iter().map(held).collect(),
        revocations: report.revocations.into_iter().map(revocation).collect(),
    }
}

pub(super) fn sa_origin(origin: origin::SaOrigin) -> api::SaOrigin {
    let words = |from: &[origin::Source]| from.iter().map(|one| one.word().to_owned()).collect();
    let item = |one: origin::Item| api::OriginItem {
        row: one.row.to_owned(),
        item: one.item.to_owned(),
        value: one.value,
        from: words(one.from),
    };
    api::SaOrigin {
        id: origin.id,
        connection: origin.connection.to_string(),
        ticket_age_seconds: origin.ticket_age.as_ref().map(Duration::as_secs),
        items: origin.items.into_iter().map(item).collect(),
    }
}

/// What to tell a client whose command on `connection` came to nothing.
pub(super) fn failure(connection: &str, error: &CommandError) -> api::Failure {
    let (code, why, cure) = match error {
        CommandError::UnknownConnection => (
            api::ErrorCode::NotFound,
            "is not configured".to_owned(),
            Some("ikectl conn lists those that the daemon has read"),
        ),
        CommandError::NoPeerAddress => (
            api::ErrorCode::Failed,
            "has no address of the peer".to_owned(),
            Some("set remote_addrs, or let the peer bring it up"),
        ),
        CommandError::NoRoute => (
            api::ErrorCode::Failed,
            "has no route to its peer".to_owned(),
            Some("ip route get shows what the kernel knows; set local_addrs to choose an address"),
        ),
        CommandError::NotUp => (
            api::ErrorCode::Failed,
            "is not up".to_owned(),
            Some("ikectl sa shows what is"),
        ),
        CommandError::NoTicket => (
            api::ErrorCode::Failed,
            "holds no ticket, so that it could not resume".to_owned(),
            Some("ikectl down deletes it instead"),
        ),
        CommandError::Ended(closed) => (
            api::ErrorCode::Failed,
            format!("ended: {closed}"),
            Some("ikectl why, with its name, says more"),
        ),
        CommandError::Kernel(text) => {
            let text = text.escape_debug();
            (
                api::ErrorCode::Failed,
                format!("was refused by the kernel: {text}"),
                None,
            )
        }
    };
    let message = format!("connection {} {why}", connection.escape_debug());
    api::Failure {
        code,
        message,
        cure: cure.map(str::to_owned),
    }
}

fn endpoint(id: Option<&ike::wire::id::Identity>, address: Option<SocketAddr>) -> api::Endpoint {
    api::Endpoint {
        id: id.map(ToString::to_string),
        addr: address.map(|address| address.ip().to_string()),
        port: address.map(|address| address.port()),
        ..api::Endpoint::default()
    }
}

pub(super) fn pool(view: &PoolView) -> api::Pool {
    let range = |range: &RangeInclusive<IpAddr>| format!("{}-{}", range.start(), range.end());
    api::Pool {
        name: (*view.name).to_owned(),
        addrs: view.ranges.iter().map(range).collect(),
        size: u64::try_from(view.size).unwrap_or(u64::MAX),
        leases: view.leases,
        online: view.online,
    }
}

/// `now` is Unix time.
pub(super) fn lease(view: &LeaseView, now: u64) -> api::Lease {
    let record = &view.record;
    api::Lease {
        addr: record.address.to_string(),
        pool: (*view.pool).to_owned(),
        connection: (*record.connection).to_owned(),
        peer: record.peer.to_string(),
        online: view.online,
        age_seconds: now.saturating_sub(record.since_wall()),
    }
}

fn child(view: &ChildView, traffic: Option<Traffic>) -> api::ChildSa {
    let texts = |selectors: &[TrafficSelector]| selectors.iter().map(ToString::to_string).collect();
    api::ChildSa {
        name: (*view.name).to_owned(),
        mode: view.mode.word().to_owned(),
        encap: view.udp_encap.then(|| "udp".to_owned()),
        proposal: view.proposal.clone(),
        spi_in: format!("{:08x}", view.spi_in),
        spi_out: format!("{:08x}", view.spi_out),
        in_bytes: traffic.map(|traffic| traffic.in_bytes),
        in_packets: traffic.map(|traffic| traffic.in_packets),
        out_bytes: traffic.map(|traffic| traffic.out_bytes),
        out_packets: traffic.map(|traffic| traffic.out_packets),
        local_ts: texts(&view.local_ts),
        remote_ts: texts(&view.remote_ts),
        rekey_in_seconds: seconds(view.rekey_in),
        ends_in_seconds: Some(view.ends_in.as_secs()),
    }
}

fn seconds(span: Option<Duration>) -> Option<u64> {
    span.as_ref().map(Duration::as_secs)
}

fn ticket(view: &SaView) -> Option<api::Ticket> {
    let left = view.ticket_left.as_ref().map(Duration::as_secs)?;
    Some(api::Ticket {
        key_id: view.ticket_name.map(|name| name.key_id),
        index: view.ticket_name.map(|name| name.index),
        expires_in_seconds: left,
    })
}

const fn state(state: SaState) -> api::SaState {
    match state {
        SaState::Connecting => api::SaState::Connecting,
        SaState::HalfOpen => api::SaState::HalfOpen,
        SaState::Established => api::SaState::Established,
        SaState::Deleting => api::SaState::Deleting,
        SaState::Suspended => api::SaState::Suspended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }

    #[test]
    fn the_words_of_states_agree_with_the_core() {
        for one in [
            SaState::Connecting,
            SaState::HalfOpen,
            SaState::Established,
            SaState::Deleting,
            SaState::Suspended,
        ] {
            assert_eq!(state(one).word(), one.word());
        }
    }
}
