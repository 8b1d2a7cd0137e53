//! What is told of our own certificates.

use super::{AUTHORITY, CERTIFICATE, CERTIFIED, Folder, KEY_SEC1};
use crate::config::OwnCertificates;

/// While the certificate is good, and after. Unix seconds.
const GOOD: u64 = 1_800_000_000;
const OVER: u64 = 5_000_000_000;

#[test]
fn a_flaw_is_told_once_with_how_many_it_is_about() {
    let other = CERTIFIED
        .replace("connections.rw", "connections.other")
        .replace("gw.example", "vpn.example");
    let folder = Folder::new(&[("rekindle.toml", &format!("{CERTIFIED}{other}"))]);
    folder.put("gw.pem", CERTIFICATE, 0o644);
    folder.put("ca.pem", AUTHORITY, 0o644);
    folder.put("gw.key", KEY_SEC1, 0o600);
    let config = folder.load().expect("a flaw is no mistake in the file");
    let own = OwnCertificates::of(&config.connections);
    let named =
        "other: our certificate does not name local.id, 'vpn.example'; most peers refuse that";
    assert_eq!(own.flaws(GOOD), [named]);
    let over = "rw and 1 more: our certificate 'CN=gw.example' expired on 2126-10-28T18:41:06Z";
    assert_eq!(own.flaws(OVER), [over, named]);
    assert!(own.dated_flaws(GOOD).is_empty());
    assert_eq!(own.dated_flaws(OVER), [over]);
}
