//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use ikectl_api::{DEFAULT_SOCKET, MAX_DENY_SECONDS, MAX_UP_SECONDS};

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 usage, 3 nothing has this name or \
    number, 4 daemon not reachable, 5 timed out, 6 not permitted";

/// Talks to rekindled.
#[derive(Debug, Parser)]
#[command(name = "ikectl", version, after_help = EXIT_STATUS)]
pub(crate) struct Args {
    /// Print the daemon's answer as JSON, on one line
    #[arg(short, long, global = true)]
    pub(crate) json: bool,

    /// Print JSON over several lines
    #[arg(short, long, global = true)]
    pub(crate) pretty: bool,

    /// Print nothing; the exit status says it all
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", env = "IKECTL_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Health, counts and what needs attention (the default)
    Status {
        /// One line for a monitor; exit status 0 well, 1 needs attention, 2 not running, 3 unknown
        #[arg(long)]
        check: bool,
    },
    /// IKE SAs and suspended connections
    Sa {
        #[command(subcommand)]
        command: Option<SaCommand>,
    },
    /// Bring a connection up: resume with a ticket at hand, else log in
    Up {
        /// The connection's name, or NAME/CHILD for one Child SA of it
        connection: String,
        /// Seconds to wait for the outcome
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_UP_SECONDS))]
        timeout: Option<u64>,
    },
    /// Delete a connection's SA with the peer's knowledge, and forget its ticket
    Down {
        /// The connection's name, or NAME/CHILD for one Child SA of it alone
        connection: String,
    },
    /// Drop a connection's SA without a word, and keep its ticket for `up`
    Suspend {
        /// The connection's name
        connection: String,
    },
    /// New keys for a connection's IKE SA, from a key exchange of their own
    Rekey {
        /// The connection's name
        connection: String,
        /// For its Child SAs instead, or for this one of them
        #[arg(long, value_name = "CHILD", num_args = 0..=1, default_missing_value = "")]
        child: Option<String>,
    },
    /// Send clients whose SAs stand to another gateway
    Redirect {
        /// The gateway's address or name
        gateway: String,
        /// The connection whose clients are to go
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        connection: Option<String>,
        /// The clients of every connection
        #[arg(long)]
        all: bool,
    },
    /// Read the configuration again: connections, secrets, certificates and lists of revoked ones
    Reload,
    /// Ticket keys, counts, and tickets held
    Ticket {
        #[command(subcommand)]
        command: Option<TicketCommand>,
    },
    /// Pools of inner addresses, and who has which
    Pool {
        #[command(subcommand)]
        command: Option<PoolCommand>,
    },
    /// What last went wrong with a peer, and what to do about it
    Why {
        /// Its address, its identity, or the name of a connection; all peers if left out
        peer: Option<String>,
    },
    /// Octets and packets of each connection since the daemon's start
    Traffic,
    /// How much the daemon logs, and whose messages; change that while it runs
    Log {
        /// error, warn, info, debug or trace; configured ends what was chosen before. With --peer: debug
        /// or configured
        level: Option<String>,
        /// The messages of this one: an address, an identity, or the name of a connection
        #[arg(long, requires = "level")]
        peer: Option<String>,
        /// How long, such as 90s, 10m or 2h; 10m with --peer, else until the daemon ends
        #[arg(long = "for", value_name = "TIME", value_parser = span, requires = "level")]
        lasting: Option<u64>,
    },
    /// Configured connections, up or not: where each stands, when it is tried next, why it waits
    #[command(visible_alias = "connections")]
    Conn,
    /// The level of defence against floods, why, and what is sent back
    Flood {
        #[command(subcommand)]
        command: Option<FloodCommand>,
    },
    /// Where the gate is attached and what it has counted; networks from which nobody is heard
    Gate {
        #[command(subcommand)]
        command: Option<GateCommand>,
    },
    /// All counters and gauges as Prometheus reads them
    Metrics,
    /// End the daemon; SAs stay in the kernel unless --delete is given
    Shutdown {
        /// Delete all SAs with the peers' knowledge first
        #[arg(long)]
        delete: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SaCommand {
    /// All, a line each (the default)
    List,
    /// One, in full
    Show {
        /// Its number
        id: u64,
        /// Where each item of its state came from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GateCommand {
    /// All of it (the default)
    Show,
    /// Hear nobody from a network for a while; ESP of tunnels that are up goes on
    Deny {
        /// An address, or a network such as 203.0.113.0/24
        network: String,
        /// How long, such as 90s, 10m, 2h or 7d
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = span)]
        lasting: u64,
    },
    /// Hear a network again that was denied
    Undeny {
        /// As it was denied
        network: String,
    },
    /// Put the gate back on its interfaces
    Attach,
    /// Take the gate off all interfaces until it is put back or the daemon starts anew
    Detach,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FloodCommand {
    /// All of it (the default)
    Show,
    /// Choose the gate's level for a while
    Level {
        /// calm, guarded, attack, auto or off; configured ends what was chosen before
        level: String,
        /// How long, such as 90s, 10m, 2h or 7d
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = span)]
        lasting: u64,
    },
    /// Ask nobody in a network for a cookie for a while: for one that nobody can forge
    Allow {
        /// An address, or a network such as 203.0.113.0/24
        network: String,
        /// How long, such as 90s, 10m, 2h or 7d
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = span)]
        lasting: u64,
    },
    /// Treat a network as all others again that was allowed
    Unallow {
        /// As it was allowed
        network: String,
    },
}

/// Reads a span of time as seconds.
fn span(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let found = UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (number, unit) = found.unwrap_or((text, 1));
    let seconds = number.parse::<u64>().ok();
    let seconds = seconds.and_then(|number| number.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=MAX_DENY_SECONDS) => Ok(seconds),
        _ => Err(format!(
            "1s to {}d, as a number with s, m, h or d",
            MAX_DENY_SECONDS / 86_400
        )),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// All pools, a line each (the default)
    List,
    /// All leases, a line each
    Leases,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TicketCommand {
    /// Keys, counts, and tickets held (the default)
    List,
    /// Issue under a new key from now on; older tickets are honoured until their end
    Rotate,
    /// Void tickets; SAs stay up
    Revoke {
        /// The identity whose tickets are meant, whether it has an SA or not
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        peer: Option<String>,
        /// Every ticket ever issued, by retiring all keys
        #[arg(long)]
        all: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_verbs_are_read() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("ikectl").expect("bare").command.is_none());
        let up = parse("ikectl up rw --timeout 5 -j").expect("up");
        assert!(up.json);
        assert!(matches!(
            up.command,
            Some(Command::Up {
                timeout: Some(5),
                ..
            })
        ));
        let show = parse("ikectl --socket /s sa show 7").expect("sa show");
        assert_eq!(show.socket, PathBuf::from("/s"));
        let revoke = |line: &str| parse(line).map(|args| args.command);
        assert!(matches!(
            revoke("ikectl ticket revoke a@b"),
            Ok(Some(Command::Ticket {
                command: Some(TicketCommand::Revoke {
                    peer: Some(_),
                    all: false,
                })
            }))
        ));
        assert!(revoke("ikectl ticket revoke --all").is_ok());
        assert!(revoke("ikectl ticket revoke").is_err());
        assert!(revoke("ikectl ticket revoke a --all").is_err());
        assert!(parse("ikectl pool").is_ok() && parse("ikectl pool leases -j").is_ok());
        assert!(parse("ikectl pool rw4").is_err());
        let deny = |line: &str| match parse(line).map(|args| args.command) {
            Ok(Some(Command::Gate {
                command: Some(GateCommand::Deny { lasting, .. }),
            })) => Some(lasting),
            _ => None,
        };
        assert_eq!(deny("ikectl gate deny 192.0.2.0/24"), Some(600));
        assert_eq!(deny("ikectl gate deny 192.0.2.0/24 --for 90"), Some(90));
        assert_eq!(deny("ikectl gate deny ::/0 --for 30d"), Some(2_592_000));
        for wrong in ["0s", "31d", "m", "1w", "-1", "99999999999999999999d"] {
            assert_eq!(deny(&format!("ikectl gate deny ::/0 --for {wrong}")), None);
        }
        assert!(parse("ikectl conn").is_ok() && parse("ikectl connections -j").is_ok());
        assert!(parse("ikectl flood").is_ok() && parse("ikectl flood level attack").is_ok());
        assert!(parse("ikectl traffic -j").is_ok());
        assert!(parse("ikectl log").is_ok() && parse("ikectl log warn --for 1h").is_ok());
        assert!(parse("ikectl log debug --peer a@b --for 5m").is_ok());
        assert!(parse("ikectl log --peer a@b").is_err() && parse("ikectl log --for 5m").is_err());
        assert!(parse("ikectl gate detach").is_ok() && parse("ikectl gate deny").is_err());
        assert!(parse("ikectl why 192.0.2.1 -j").is_ok() && parse("ikectl why").is_ok());
        assert!(parse("ikectl up").is_err());
        assert!(parse("ikectl up rw --timeout 0").is_err());
        assert!(parse("ikectl reboot").is_err());
    }
}
