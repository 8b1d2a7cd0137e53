//! Rekindle and strongSwan prove themselves by certificates in messages that both must cut (RFC 7383):
//! nothing of IKE_AUTH is longer than both were told, in either role.

use anyhow::{Context as _, Result, ensure};
use ike::wire::{
    fragment::Fragment,
    header::{Exchange, Header},
    notify::NotifyKind,
    payload::PayloadKind,
};

use super::sides::{Auth, NAME, Role, Sides, Traffic};
use crate::{
    datagram::Datagram,
    site::Site,
    suite::{Case, Lab},
};

/// strongSwan calls.
pub(super) const CALLED: Case = Case {
    name: "strongswan_calls_rekindle_by_certificate_in_fragments",
    run: called,
};
/// We call.
pub(super) const CALLING: Case = Case {
    name: "rekindle_calls_strongswan_by_certificate_in_fragments",
    run: calling,
};

/// Octets of an IP datagram; a certificate's IKE_AUTH has about twice as many.
const OURS: &str = "fragmentation = true\nfragment_size = 576";
const THEIRS_IN_ALL: &str = "fragment_size = 576";
const THEIRS: &str = "fragmentation = yes";
/// Octets of an IKE message in such a datagram of IPv4.
const MOST: usize = 576 - 20 - 8;

fn called(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Certificate)?;
    let site = sides.rekindle(lab, Role::Gateway, OURS)?;
    let swan = sides.strongswan(lab, Role::Client, THEIRS_IN_ALL, THEIRS)?;
    let watch = sides.watch()?;
    swan.swanctl("--initiate --child net --timeout 20")?;
    went_in_fragments(&sides, &site, watch.stop()?)?;
    swan.swanctl(&format!("--terminate --ike {NAME} --timeout 10"))?;
    sides.is_clean(&site, &swan)
}

fn calling(lab: &mut Lab) -> Result<()> {
    let sides = Sides::on_one_cable(Auth::Certificate)?;
    let swan = sides.strongswan(lab, Role::Gateway, THEIRS_IN_ALL, THEIRS)?;
    let site = sides.rekindle(lab, Role::Client, OURS)?;
    let watch = sides.watch()?;
    site.ikectl(&format!("up {NAME}"))?;
    went_in_fragments(&sides, &site, watch.stop()?)?;
    site.ikectl(&format!("down {NAME}"))?;
    sides.is_clean(&site, &swan)
}

/// Both announced it, both cut their IKE_AUTH, and what came of it carries traffic.
fn went_in_fragments(sides: &Sides, site: &Site<'_>, login: Traffic) -> Result<()> {
    for sent in [&login.client, &login.gateway] {
        let first = sent.first().context("a first message")?;
        ensure!(
            first.notifies(NotifyKind::IKEV2_FRAGMENTATION_SUPPORTED),
            "it is not offered"
        );
        let auth: Vec<&Datagram> = sent
            .iter()
            .filter(|one| matches!(one.kind(), Some((Exchange::IkeAuth, _))))
            .collect();
        ensure!(auth.len() >= 2, "IKE_AUTH in {} datagrams", auth.len());
        for (number, one) in (1..).zip(&auth) {
            let (header, _) = Header::parse(&one.message)?;
            ensure!(header.next == PayloadKind::SKF, "{:?}", header.next);
            let fragment = Fragment::parse(&header, &one.message)?;
            let numbers = (fragment.number, usize::from(fragment.total));
            ensure!(numbers == (number, auth.len()), "{numbers:?}");
            ensure!(one.message.len() <= MOST, "{} octets", one.message.len());
        }
    }
    let watch = sides.watch()?;
    sides.ping()?;
    sides.has_states(site)?;
    watch.stop()?.is_esp(1)
}
