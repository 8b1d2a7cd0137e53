//! `ikectl status --check`: one line and a status, as monitoring plug-ins have them.

use ikectl_api::Outcome;

use crate::ask::{Trouble, printable};

/// The line, and 0 for well, 1 for what an operator should look at, 2 for a daemon that does not
/// answer, 3 for an answer that says nothing of its health.
pub(crate) fn check(answer: Result<Outcome, Trouble>) -> (String, u8) {
    match answer {
        Ok(Outcome::Status(status)) if status.attention.is_empty() => {
            let line = format!(
                "OK - {} IKE SAs, {} suspended, gate {}",
                status.ike_sas_established,
                status.suspended,
                printable(&status.gate_mode)
            );
            (line, 0)
        }
        Ok(Outcome::Status(status)) => {
            let all = status.attention.iter().map(|one| printable(&one.text));
            let all: Vec<_> = all.collect();
            (format!("WARNING - {}", all.join("; ")), 1)
        }
        Ok(Outcome::Error(failure)) => (format!("UNKNOWN - {}", printable(&failure.message)), 3),
        Ok(_) => ("UNKNOWN - the daemon answered something else".to_owned(), 3),
        Err(trouble @ (Trouble::NotReachable(..) | Trouble::TimedOut(_))) => {
            (format!("CRITICAL - {trouble}"), 2)
        }
        Err(trouble) => (format!("UNKNOWN - {trouble}"), 3),
    }
}
