//! Pings, and what came of them.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Namespace;

/// The end of a run of ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Requests sent.
    pub sent: u32,
    /// Replies that came back in time.
    pub received: u32,
}

impl Reply {
    /// Whether every request was answered.
    #[must_use]
    pub fn all(self) -> bool {
        self.sent > 0 && self.received == self.sent
    }
}

/// Sends exactly `count` requests, five a second, and waits this long for the last reply.
pub fn ping(namespace: &Namespace, to: &str, count: u32, patience: Duration) -> Result<Reply> {
    let seconds = patience.as_secs().max(1).to_string();
    let output = namespace
        .command("ping")
        .args([
            "-n",
            "-q",
            "-i",
            "0.2",
            "-c",
            &count.to_string(),
            "-W",
            &seconds,
            to,
        ])
        .env("LC_ALL", "C")
        .output()?;
    // No reply at all is a result, told by the status; the summary line has it too.
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    parse(&text).with_context(|| format!("ping {to} in {}: {}", namespace.name(), said.trim()))
}

fn parse(text: &str) -> Option<Reply> {
    let line = text
        .lines()
        .find(|line| line.contains("packets transmitted"))?;
    let mut parts = line.split(',').map(|part| part.trim().split(' ').next());
    let mut number = || parts.next()??.parse().ok();
    Some(Reply {
        sent: number()?,
        received: number()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_line_is_read() {
        let text = "3 packets transmitted, 2 received, 33.3% packet loss, time 401ms\n";
        assert_eq!(
            parse(text),
            Some(Reply {
                sent: 3,
                received: 2
            })
        );
        let text = "4 packets transmitted, 0 received, +2 errors, 100% packet loss, time 3ms\n";
        assert_eq!(
            parse(text),
            Some(Reply {
                sent: 4,
                received: 0
            })
        );
        assert_eq!(parse("connect: Network is unreachable\n"), None);
    }
}
