//! Keeps lists of revoked certificates as fresh as their files: they are looked at from time to time, and
//! read again when they have changed.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use tracing::{error, info};

use crate::config::ListFiles;

/// Between two looks, which cost a `stat` for each file.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Follows the files for as long as anybody holds them, on a thread of its own: a long list takes a while.
pub(super) fn follow(files: &Arc<ListFiles>) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let files = Arc::downgrade(files);
    let thread = thread::Builder::new().name("crl-files".into());
    thread.spawn(move || look(&files)).map(drop)
}

fn look(files: &Weak<ListFiles>) {
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(files) = files.upgrade() else {
            return;
        };
        match files.follow() {
            None => {}
            Some(Ok(read)) => info!(
                lists = read.lists,
                revoked = read.revoked,
                "lists of revoked certificates have changed"
            ),
            Some(Err(what)) => {
                error!("{what}; the lists of revoked certificates stay as they were");
            }
        }
    }
}
