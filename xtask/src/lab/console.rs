//! The output of a kernel that runs a lab's command, up to the command's end.
//!
//! An exit status does not travel out of a kernel, so the init script prints marker lines; they are
//! read here and never shown.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Error, Result, bail};

use super::{Lab, NotStarted};
use crate::shell;

/// Runs the kernel `command` until the init script has said the exit status, and returns that.
pub(super) fn watch(
    command: &mut Command,
    mark: &str,
    what: &str,
    lab: &Lab,
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u8> {
    let mut filter = Filter::new(mark);
    let ended = shell::stream_until(command, lab.interactive, lab.limit, &mut |octets| {
        filter.pass(octets, show)?;
        Ok(filter.status.is_some())
    });
    if !filter.begun {
        let why = NotStarted(format!("{what} did not start: {filter}"));
        return Err(match ended {
            Ok(_) => Error::msg(why),
            Err(error) => error.context(why),
        });
    }
    ended?;
    match filter.status {
        Some(status) => Ok(status),
        None => bail!("{what} ended before the command did: {filter}"),
    }
}

/// Passes what lies between the two marker lines.
struct Filter {
    begin: Vec<u8>,
    end: Vec<u8>,
    /// Boot messages before the first marker; later, octets that may be the start of the second.
    held: Vec<u8>,
    begun: bool,
    status: Option<u8>,
}

impl Filter {
    fn new(mark: &str) -> Self {
        let (begin, end) = (format!("{mark} begin\n"), format!("{mark} exit "));
        let (begin, end) = (begin.into_bytes(), end.into_bytes());
        Self {
            begin,
            end,
            held: Vec::new(),
            begun: false,
            status: None,
        }
    }

    fn pass(&mut self, octets: &[u8], show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.held
            .extend(octets.iter().filter(|octet| self.begun || **octet != b'\r'));
        if !self.begun {
            let Some(at) = find(&self.held, &self.begin) else {
                return Ok(());
            };
            self.held.drain(..at + self.begin.len());
            self.begun = true;
        }
        let Some(at) = find(&self.held, &self.end) else {
            let kept = (0..self.end.len())
                .rev()
                .find(|n| self.held.ends_with(&self.end[..*n]));
            let shown = self.held.len() - kept.unwrap_or(0);
            show(&self.held[..shown])?;
            self.held.drain(..shown);
            return Ok(());
        };
        show(&self.held[..at])?;
        self.held.drain(..at);
        let line = &self.held[self.end.len()..];
        if let Some(length) = line.iter().position(|octet| *octet == b'\n') {
            let digits = String::from_utf8_lossy(&line[..length]);
            self.status = Some(digits.trim().parse().context("the lab's exit status")?);
        }
        Ok(())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = String::from_utf8_lossy(&self.held);
        match held.trim() {
            "" => f.write_str("it said nothing"),
            said => f.write_str(said),
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lab::Kernel;

    fn filtered(pieces: &[&str]) -> (String, Option<u8>) {
        let mut filter = Filter::new("@lab");
        let mut shown = Vec::new();
        for piece in pieces {
            let mut show = |octets: &[u8]| {
                shown.extend_from_slice(octets);
                Ok(())
            };
            filter
                .pass(piece.as_bytes(), &mut show)
                .expect("well-formed status");
        }
        (
            String::from_utf8(shown).expect("text in, text out"),
            filter.status,
        )
    }

    #[test]
    fn only_what_the_command_printed_is_shown() {
        let seen = filtered(&["Booting\r\n@lab begin\r\n", "one\ntwo", "@lab exit 7\n"]);
        assert_eq!(seen, ("one\ntwo".to_owned(), Some(7)));
    }

    #[test]
    fn a_marker_cut_in_pieces_is_still_found() {
        let seen = filtered(&["@lab be", "gin\n", "a @la", "te b\n@lab", " exit 1", "2\n"]);
        assert_eq!(seen, ("a @late b\n".to_owned(), Some(12)));
    }

    #[test]
    fn a_kernel_that_does_not_start_is_told_from_one_that_fails() {
        let lab = Lab {
            kernel: Kernel::Qemu,
            interactive: false,
            limit: Duration::from_secs(10),
        };
        for (script, started) in [
            ("echo no memory", false),
            ("echo '@lab begin'; echo half", true),
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let ended = watch(&mut command, "@lab", "the kernel", &lab, &mut |_| Ok(()));
            let error = ended.expect_err("no status");
            assert_eq!(error.is::<NotStarted>(), !started, "{error:#}");
        }
    }

    #[test]
    fn a_guest_that_dies_has_no_status() {
        assert_eq!(filtered(&["@lab begin\n", "half\n"]).1, None);
    }
}
