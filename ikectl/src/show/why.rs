//! Failures of peers, as people read them: what we found, and below it what to do.

use std::fmt::Write as _;

use ikectl_api::PeerFailure;

use crate::ask::printable;

pub(super) fn screen(failures: &[PeerFailure]) -> String {
    if failures.is_empty() {
        return "no failure is remembered; a peer whose packets never get here leaves none\n"
            .to_owned();
    }
    let mut text = String::new();
    for one in failures {
        let mut head = one.time.clone();
        match one.addr.as_str() {
            // Nobody was found there.
            "0.0.0.0" => {}
            v6 if v6.contains(':') => {
                let _infallible = write!(head, "  [{v6}]:{}", one.port);
            }
            v4 => {
                let _infallible = write!(head, "  {v4}:{}", one.port);
            }
        }
        for more in [&one.connection, &one.identity].into_iter().flatten() {
            head = head + "  " + more;
        }
        if one.standing == "stranger" {
            head += "  (the address may be forged)";
        }
        if one.times > 1 {
            let _infallible = write!(head, "  {} times since {}", one.times, one.first_time);
        }
        let notify = one.notify.as_ref();
        let notify = notify.map_or(String::new(), |notify| format!(" ({notify})"));
        let what = format!(
            "{} as {}, {}: {}{notify}",
            one.exchange, one.role, one.step, one.verdict
        );
        for line in [head, format!("  {what}"), format!("  -> {}", one.cure)] {
            text += &printable(&line);
            text.push('\n');
        }
    }
    text
}
