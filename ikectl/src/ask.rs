//! One request, one reply, and never longer than the deadline.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use ikectl_api::{ErrorCode, Failure, MAX_REPLY, Reply, Request, SCHEMA};

/// What came back, as read and as understood.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) line: String,
    pub(crate) reply: Reply,
}

/// Why there is nothing to show.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No daemon on the socket.
    NotReachable(PathBuf, io::Error),
    /// The socket is not for us.
    NotPermitted(PathBuf),
    /// The daemon did not answer.
    TimedOut(Duration),
    /// The daemon's answer made no sense.
    Nonsense(String),
    /// The daemon said no.
    Refused(Failure),
    /// Standard output is broken.
    Output(String),
}

impl Trouble {
    /// The exit status, the same for every verb.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Nonsense(_) | Self::Output(_) => 1,
            Self::NotReachable(..) => 4,
            Self::TimedOut(_) => 5,
            Self::NotPermitted(_) => 6,
            Self::Refused(failure) => match failure.code {
                ErrorCode::NotFound => 3,
                ErrorCode::Timeout => 5,
                ErrorCode::BadRequest
                | ErrorCode::Busy
                | ErrorCode::Failed
                | ErrorCode::Unknown => 1,
            },
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReachable(path, error) => write!(
                f,
                "{}: no daemon answers ({error}); is rekindled running?",
                path.display()
            ),
            Self::NotPermitted(path) => write!(
                f,
                "{}: permission denied; become root or join the socket's group",
                path.display()
            ),
            Self::TimedOut(deadline) => write!(
                f,
                "daemon: no answer within {} s; the command may still succeed",
                deadline.as_secs()
            ),
            Self::Nonsense(why) => {
                write!(
                    f,
                    "daemon: answer not understood: {why}; are both of one version?"
                )
            }
            Self::Refused(failure) => {
                write!(f, "{}", printable(&failure.message))?;
                match &failure.cure {
                    Some(cure) => write!(f, "; {}", printable(cure)),
                    None => Ok(()),
                }
            }
            Self::Output(why) => write!(f, "standard output: {why}"),
        }
    }
}

/// The text without what would move a terminal's cursor or start another line.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Sends a request and waits for its reply.
///
/// The socket work runs on a thread of its own, which the end of the process ends: connecting to a
/// Unix socket has no time-out, and blocks while a stuck daemon's backlog is full.
pub(crate) fn ask(path: &Path, request: &Request, deadline: Duration) -> Result<Answer, Trouble> {
    let line =
        serde_json::to_string(request).map_err(|error| Trouble::Nonsense(error.to_string()))?;
    let (sender, receiver) = mpsc::channel();
    let socket = path.to_path_buf();
    thread::spawn(move || {
        // The receiver is gone if the deadline came first.
        let _late = sender.send(exchange(&socket, line));
    });
    let line = match receiver.recv_timeout(deadline) {
        Ok(result) => result.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Trouble::NotPermitted(path.to_path_buf()),
            _ => Trouble::NotReachable(path.to_path_buf(), error),
        })?,
        Err(RecvTimeoutError::Timeout) => return Err(Trouble::TimedOut(deadline)),
        Err(RecvTimeoutError::Disconnected) => {
            return Err(Trouble::Nonsense("the exchange ended early".to_owned()));
        }
    };
    let reply: Reply =
        serde_json::from_str(&line).map_err(|error| Trouble::Nonsense(error.to_string()))?;
    if reply.rekindle.schema != SCHEMA {
        let theirs = reply.rekindle.schema;
        return Err(Trouble::Nonsense(format!("schema {theirs}, not {SCHEMA}")));
    }
    Ok(Answer { line, reply })
}

fn exchange(path: &Path, mut line: String) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    line.push('\n');
    // A daemon that turns us away may close before it has read; its reason is still there to read.
    let written = stream.write_all(line.as_bytes());
    let mut reply = String::new();
    BufReader::new(stream.take(MAX_REPLY as u64)).read_line(&mut reply)?;
    if reply.ends_with('\n') {
        return Ok(reply);
    }
    written?;
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "closed without an answer",
    ))
}
