//! Running tools: what is checked, and where their output goes.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Pieces of output on their way from a command to whoever shows them.
const QUEUE: usize = 64;

/// Runs `command` with its output on our stderr, so that stdout stays free for results.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    let status = command
        .stdout(Stdio::from(stderr))
        .status()
        .with_context(|| name(command))?;
    if !status.success() {
        bail!("{} ended with {status}", name(command));
    }
    Ok(())
}

/// Runs `command` and returns what it printed; its stderr becomes the error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| name(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            name(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Passes on what a part says as it comes: to stderr where stdout is for one JSON object.
pub(crate) fn progress(json: bool) -> impl FnMut(&[u8]) -> Result<()> {
    move |octets| {
        let written = if json {
            io::stderr().write_all(octets)
        } else {
            io::stdout().write_all(octets)
        };
        Ok(written?)
    }
}

/// Runs `command` within `limit`, handing its merged output to `show`; the result is its status.
pub(crate) fn stream(
    command: &mut Command,
    interactive: bool,
    limit: Duration,
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u8> {
    let status = stream_until(command, interactive, limit, &mut |octets| {
        show(octets)?;
        Ok(false)
    })?;
    let signal = status.signal().map_or(1, |signal| 128 + signal);
    Ok(u8::try_from(status.code().unwrap_or(signal)).unwrap_or(1))
}

/// Like [`stream`], but kills the command as soon as `show` says that it has seen enough.
pub(crate) fn stream_until(
    command: &mut Command,
    interactive: bool,
    limit: Duration,
    show: &mut dyn FnMut(&[u8]) -> Result<bool>,
) -> Result<ExitStatus> {
    let (mut reader, writer) = io::pipe()?;
    command.stdin(if interactive {
        Stdio::inherit()
    } else {
        Stdio::null()
    });
    command.stdout(writer.try_clone()?).stderr(writer);
    if !interactive {
        command.process_group(0);
    }
    let mut child = command.spawn().with_context(|| name(command))?;
    // The command keeps our ends of the pipe, and with them the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (sender, pieces) = mpsc::sync_channel(QUEUE);
    thread::spawn(move || {
        let mut buffer = vec![0; 8192];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let done = match pieces.recv_timeout(left) {
            Ok(piece) => show(&piece),
            Err(RecvTimeoutError::Disconnected) => return Ok(child.wait()?),
            Err(RecvTimeoutError::Timeout) => Err(anyhow!("not done after {} s", limit.as_secs())),
        };
        if !matches!(done, Ok(false)) {
            // The whole group: user-mode Linux has threads of its own that outlive its death.
            let group = Pid::from_raw(child.id().cast_signed());
            if interactive || killpg(group, Signal::SIGKILL).is_err() {
                child.kill()?;
            }
            let status = child.wait()?;
            return done.map(|_| status);
        }
    }
}

/// Says what takes long before it starts, and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {what} ...");
    let start = Instant::now();
    let result = work().with_context(|| what.to_owned())?;
    eprintln!("xtask: {what}: {:.1} s", start.elapsed().as_secs_f32());
    Ok(result)
}

/// Asks for a yes on the terminal; anything else is a no.
pub(crate) fn ask(question: &str) -> Result<bool> {
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The program's full path, if the search path or the system folders have it.
///
/// An ordinary user's PATH often lacks the sbin folders where `ip` and `modprobe` live.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether this is continuous integration, where nobody can be asked.
pub(crate) fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Removes a folder that may be absent.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
