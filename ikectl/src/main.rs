//! The operator's tool: one request to the daemon's control socket, its answer as a table or as
//! JSON, and an exit status that says how it went.

mod args;
mod ask;
mod show;
mod table;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _};
use ikectl_api::{DEADLINE_SECONDS, DOWN_SECONDS, MAX_UP_SECONDS, Outcome, Request, UP_SECONDS};

use crate::{
    args::{Args, Command, FloodCommand, GateCommand, PoolCommand, SaCommand, TicketCommand},
    ask::Trouble,
};

/// Time for the way to the daemon and back, on top of the daemon's own deadline.
const ROUND_TRIP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Abbreviated verbs help fingers, but a script that uses them breaks with the next verb.
    let at_terminal = std::io::stdout().is_terminal();
    let matches = Args::command().infer_subcommands(at_terminal).get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if matches!(args.command, Some(Command::Status { check: true })) {
        return check(&args);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            if !args.quiet {
                // One line whatever the daemon said, and nobody to tell if stderr is gone.
                let _unheard = writeln!(std::io::stderr(), "ikectl: {trouble}");
            }
            ExitCode::from(trouble.status())
        }
    }
}

fn run(args: &Args) -> Result<(), Trouble> {
    if matches!(args.command, Some(Command::Metrics)) {
        return metrics(args);
    }
    let (request, deadline) = request(args.command.as_ref());
    let answer = ask::ask(&args.socket, &request, deadline)?;
    let failure = match &answer.reply.outcome {
        Outcome::Error(failure) => Some(Trouble::Refused(failure.clone())),
        _ => None,
    };
    if !args.quiet {
        // A failure in JSON goes to stdout too: a script reads one place.
        if args.json || args.pretty {
            print(&show::json(&answer.line, args.pretty)?)?;
        } else if failure.is_none() {
            let one_sa = matches!(request, Request::SaShow { .. });
            print(&show::text(&answer.reply, one_sa))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Says how the daemon is as monitoring plug-ins do: one line, and the status for what it means.
fn check(args: &Args) -> ExitCode {
    let deadline = Duration::from_secs(DEADLINE_SECONDS) + ROUND_TRIP;
    let answer = ask::ask(&args.socket, &Request::Status, deadline);
    let (line, status) = show::check(answer.map(|answer| answer.reply.outcome));
    if !args.quiet {
        let _unheard = writeln!(std::io::stdout(), "{line}");
    }
    ExitCode::from(status)
}

/// Asks for everything that is counted. It is all or nothing: half a page would look like a fall.
fn metrics(args: &Args) -> Result<(), Trouble> {
    let deadline = Duration::from_secs(DEADLINE_SECONDS) + ROUND_TRIP;
    let mut replies = Vec::new();
    let requests = [
        Request::Status,
        Request::Gate,
        Request::Flood,
        Request::Traffic,
    ];
    for request in requests {
        let reply = ask::ask(&args.socket, &request, deadline)?.reply;
        if let Outcome::Error(failure) = reply.outcome {
            return Err(Trouble::Refused(failure));
        }
        replies.push(reply);
    }
    if args.quiet {
        return Ok(());
    }
    print(&show::metrics::text(&replies))
}

fn request(command: Option<&Command>) -> (Request, Duration) {
    let mut seconds = DEADLINE_SECONDS;
    let request = match command {
        None | Some(Command::Status { .. }) => Request::Status,
        Some(Command::Sa {
            command: None | Some(SaCommand::List),
        }) => Request::SaList,
        Some(Command::Sa {
            command: Some(SaCommand::Show { id, origin: false }),
        }) => Request::SaShow { id: *id },
        Some(Command::Sa {
            command: Some(SaCommand::Show { id, origin: true }),
        }) => Request::SaOrigin { id: *id },
        Some(Command::Up {
            connection,
            timeout,
        }) => {
            seconds = timeout.unwrap_or(UP_SECONDS).min(MAX_UP_SECONDS);
            let (connection, child) = connection_and_child(connection);
            Request::Up {
                connection,
                child,
                timeout_seconds: Some(seconds),
            }
        }
        Some(Command::Down { connection }) => {
            seconds = DOWN_SECONDS;
            let (connection, child) = connection_and_child(connection);
            Request::Down { connection, child }
        }
        Some(Command::Suspend { connection }) => Request::Suspend {
            connection: connection.clone(),
        },
        Some(Command::Rekey { connection, child }) => Request::Rekey {
            connection: connection.clone(),
            child: child.is_some(),
            name: child.clone().filter(|name| !name.is_empty()),
        },
        Some(Command::Redirect {
            gateway,
            connection,
            all,
        }) => Request::Redirect {
            connection: connection.clone(),
            all: *all,
            gateway: gateway.clone(),
        },
        Some(Command::Ticket { command }) => match command {
            None | Some(TicketCommand::List) => Request::TicketList,
            Some(TicketCommand::Rotate) => Request::TicketRotate,
            Some(TicketCommand::Revoke { peer, all }) => Request::TicketRevoke {
                peer: peer.clone(),
                all: *all,
            },
        },
        Some(Command::Reload) => Request::Reload,
        Some(Command::Pool { command }) => match command {
            None | Some(PoolCommand::List) => Request::PoolList,
            Some(PoolCommand::Leases) => Request::PoolLeases,
        },
        Some(Command::Why { peer }) => Request::Why { peer: peer.clone() },
        Some(Command::Conn) => Request::ConnectionList,
        Some(Command::Traffic) => Request::Traffic,
        Some(Command::Log {
            level,
            peer,
            lasting,
        }) => log(level.as_deref(), peer.clone(), *lasting),
        Some(Command::Flood { command }) => match command {
            None | Some(FloodCommand::Show) => Request::Flood,
            Some(FloodCommand::Level { level, lasting }) => Request::FloodLevel {
                level: level.clone(),
                for_seconds: Some(*lasting),
            },
            Some(FloodCommand::Allow { network, lasting }) => Request::FloodAllow {
                network: network.clone(),
                for_seconds: Some(*lasting),
            },
            Some(FloodCommand::Unallow { network }) => Request::FloodUnallow {
                network: network.clone(),
            },
        },
        Some(Command::Gate { command }) => match command {
            None | Some(GateCommand::Show) => Request::Gate,
            Some(GateCommand::Deny { network, lasting }) => Request::GateDeny {
                network: network.clone(),
                for_seconds: Some(*lasting),
            },
            Some(GateCommand::Undeny { network }) => Request::GateUndeny {
                network: network.clone(),
            },
            Some(GateCommand::Attach) => Request::GateAttach,
            Some(GateCommand::Detach) => Request::GateDetach,
        },
        // Metrics are asked for in several requests.
        Some(Command::Metrics) => Request::Gate,
        Some(Command::Shutdown { delete }) => Request::Shutdown { delete: *delete },
    };
    (request, Duration::from_secs(seconds) + ROUND_TRIP)
}

/// Of a peer there are all messages or none.
fn log(level: Option<&str>, peer: Option<String>, for_seconds: Option<u64>) -> Request {
    match (level, peer) {
        (None, _) => Request::Log,
        (Some("debug" | "trace"), Some(peer)) => Request::LogWatch { peer, for_seconds },
        (Some("configured" | "info" | "warn" | "error"), Some(peer)) => {
            Request::LogUnwatch { peer }
        }
        // A level that there is not, if there is a peer: the daemon says so.
        (Some(level), _) => Request::LogLevel {
            level: level.to_owned(),
            for_seconds,
        },
    }
}

/// `NAME` or `NAME/CHILD`; no name has a slash in it.
fn connection_and_child(text: &str) -> (String, Option<String>) {
    match text.split_once('/') {
        Some((connection, child)) => (connection.to_owned(), Some(child.to_owned())),
        None => (text.to_owned(), None),
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Trouble> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Trouble::Output(error.to_string()))
        }
        _ => Ok(()),
    }
}
