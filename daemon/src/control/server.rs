//! Accepts clients, reads their lines, asks the engine and writes its answers.

mod answer;
mod gate;
mod log;

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ikectl_api::{ErrorCode, Failure, MAX_REQUEST, Outcome, Reply, SCHEMA, Stamp};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::{convert, request::ControlRequest};
use crate::wall::since_epoch;

/// Clients served at a time; further ones are told so and closed.
pub const MAX_CLIENTS: usize = 32;
/// Requests on their way to the engine.
pub const QUEUE: usize = 64;
/// How long a client may take to read a reply, in addition to the time of the command.
pub const RESULT_SLACK: Duration = Duration::from_secs(5);

/// A client that says nothing for this long is closed.
const IDLE: Duration = Duration::from_mins(5);
/// Pause after `accept` failed, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is in the socket's way is looked at again after so long.
const BIND_AGAIN: Duration = Duration::from_millis(500);
const SOCKET_MODE: u32 = 0o660;

/// The socket cannot be had.
#[derive(Debug, Error)]
pub(super) enum ControlError {
    /// Another daemon answers on it.
    #[error("{0}: another daemon listens here; stop it or set another daemon.run_dir")]
    InUse(PathBuf),
    /// Something that is not a socket has its name.
    #[error("{0}: exists and is not a socket; move it away")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening control socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Bound {
    listener: StdListener,
    path: PathBuf,
}

/// Binds the socket, owner and group only. A file that a dead daemon left is replaced; a live one is
/// left alone.
pub(super) fn bind(path: &Path) -> Result<Bound, ControlError> {
    let failed = |source| ControlError::Io {
        path: path.to_path_buf(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_path_buf()));
        }
        Ok(_) => match StdStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Err(ControlError::InUse(path.to_path_buf())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Bound under another name and renamed, so that nobody connects before the mode is right.
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = StdListener::bind(&fresh).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)?;
    Ok(Bound {
        listener,
        path: path.to_path_buf(),
    })
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Gone already if somebody cleaned the folder; nothing is lost then.
        let _gone = fs::remove_file(&self.path);
    }
}

/// Binds the socket and serves its clients until the task is dropped. Tunnels do without it: what is in
/// its way is said, and it is tried again. `engine` has room for [`QUEUE`] requests.
pub async fn listen(path: &Path, engine: mpsc::Sender<ControlRequest>) -> Infallible {
    let mut said = String::new();
    loop {
        let failure = match bind(path) {
            Ok(bound) => {
                let Err(error) = serve(bound, engine.clone()).await;
                error.to_string()
            }
            Err(error) => error.to_string(),
        };
        if failure != said {
            tracing::error!("ikectl cannot ask this daemon: {failure}");
            said = failure;
        }
        sleep(BIND_AGAIN).await;
    }
}

/// Serves clients of a bound socket until the task is dropped. Fails only if there is no descriptor left,
/// or outside of a tokio runtime with I/O.
pub(super) async fn serve(
    bound: Bound,
    engine: mpsc::Sender<ControlRequest>,
) -> io::Result<Infallible> {
    let listener = UnixListener::from_std(bound.listener.try_clone()?)?;
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket: accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            turn_away(&stream);
            continue;
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            serve_client(stream, &engine).await;
            drop(place);
        });
    }
}

/// One line without waiting: there is no task to wait in.
fn turn_away(stream: &UnixStream) {
    let failure = busy("daemon has too many control clients");
    // A fresh socket has room for one line; if not, the closed connection says enough.
    let _unread = stream.try_write(&line(Outcome::Error(failure)));
}

async fn serve_client(stream: UnixStream, engine: &mpsc::Sender<ControlRequest>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let outcome = match timeout(IDLE, read_line(&mut reader)).await {
            Err(_) | Ok(Line::End) => return,
            Ok(Line::TooLong) => {
                let failure = bad_request(format!("request is longer than {MAX_REQUEST} octets"));
                let _closing = write(&mut writer, Outcome::Error(failure)).await;
                return;
            }
            Ok(Line::Request(octets)) => match serde_json::from_slice(&octets) {
                Ok(request) => answer::answer(request, engine).await,
                Err(error) => {
                    Outcome::Error(bad_request(format!("request not understood: {error}")))
                }
            },
        };
        if write(&mut writer, outcome).await.is_err() {
            return;
        }
    }
}

enum Line {
    Request(Vec<u8>),
    TooLong,
    End,
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> Line {
    let mut octets = Vec::new();
    let mut bounded = reader.take(MAX_REQUEST as u64);
    match bounded.read_until(b'\n', &mut octets).await {
        Ok(_) if octets.last() == Some(&b'\n') => Line::Request(octets),
        Ok(MAX_REQUEST) => Line::TooLong,
        // A last line without newline is not a request: the client may have died in the middle.
        Ok(_) | Err(_) => Line::End,
    }
}

async fn write(writer: &mut OwnedWriteHalf, outcome: Outcome) -> io::Result<()> {
    let line = line(outcome);
    timeout(RESULT_SLACK, writer.write_all(&line)).await?
}

fn line(outcome: Outcome) -> Vec<u8> {
    let stamp = Stamp {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: SCHEMA,
        time: convert::rfc3339(unix_now()),
    };
    let reply = Reply {
        rekindle: stamp,
        outcome,
    };
    // Maps with string keys and finite numbers always serialise.
    let mut line = serde_json::to_vec(&reply).unwrap_or_default();
    line.push(b'\n');
    line
}

fn busy(message: &str) -> Failure {
    Failure {
        code: ErrorCode::Busy,
        message: message.to_owned(),
        cure: Some("try again in a moment".to_owned()),
    }
}

fn bad_request(message: String) -> Failure {
    Failure {
        code: ErrorCode::BadRequest,
        message,
        cure: None,
    }
}

/// How long a request is for.
fn span(seconds: u64, most: u64) -> Result<Duration, Failure> {
    if !(1..=most).contains(&seconds) {
        return Err(bad_request(format!("for_seconds is 1 to {most}")));
    }
    Ok(Duration::from_secs(seconds))
}

fn unix_now() -> u64 {
    since_epoch().as_secs()
}
