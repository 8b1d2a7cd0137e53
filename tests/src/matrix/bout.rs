//! One case with one foreign daemon in one role: both are started, and what happens then is the case's.

use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    PATIENCE, dialect,
    foreign::{Keys, Peer},
    ground::{Ground, Traffic},
    terms::{Auth, Foreign, NAME, Outer, Role, Stranger, Terms},
};
use crate::{
    netns::Namespace,
    pki::{Authority, BareKey},
    site::{Setting, Site},
    suite::Lab,
    until::until,
};

/// Both daemons, running and idle.
pub(super) struct Bout<'a> {
    lab: &'a Lab,
    pub(super) terms: Terms,
    pub(super) role: Role,
    pub(super) foreign: Foreign,
    keys: Keys,
    pub(super) ground: &'a Ground,
    pub(super) rekindle: Site<'a>,
    /// On the third machine.
    pub(super) other: Option<Site<'a>>,
    pub(super) peer: Peer<'a>,
}

/// Lays the ground, starts both, and plays.
pub(super) fn play(
    lab: &Lab,
    terms: Terms,
    foreign: Foreign,
    role: Role,
    plot: fn(&mut Bout<'_>) -> Result<()>,
) -> Result<()> {
    let ground = Ground::lay(&terms, role)?;
    let keys = keys(&terms)?;
    let (ours, theirs) = match role {
        Role::Initiator => (&ground.client, &ground.gateway),
        Role::Responder => (&ground.gateway, &ground.client),
    };
    let peer = Peer::start(lab, theirs, foreign, (&terms, role), &keys)?;
    let rekindle = start(lab, ours, (&terms, role), &keys)?;
    let plain = Terms {
        settings: "",
        ours: "",
        ..terms
    };
    let other = ground.other.as_ref().map(|other| {
        let gateway = (&plain, Role::Responder);
        start(lab, other, gateway, &keys)
    });
    plot(&mut Bout {
        lab,
        terms,
        role,
        foreign,
        keys,
        ground: &ground,
        rekindle,
        other: other.transpose()?,
        peer,
    })
}

fn keys(terms: &Terms) -> Result<Keys> {
    let root = Rc::new(Authority::new()?);
    let below = |root: &Rc<Authority>, name| match terms.auth {
        Auth::Certificate {
            intermediate: true, ..
        } => root.below(name).map(Rc::new),
        _ => Ok(Rc::clone(root)),
    };
    let theirs = match terms.stranger {
        Stranger::OtherAuthority => Rc::new(Authority::new()?),
        _ => Rc::clone(&root),
    };
    let authorities = [
        below(&root, "Rekindle's Issuer")?,
        below(&theirs, "The Peer's Issuer")?,
    ];
    let bare = match terms.auth {
        Auth::Bare(key) => Some([BareKey::new(key.kind())?, BareKey::new(key.kind())?]),
        _ => None,
    };
    Ok(Keys { authorities, bare })
}

fn start<'a>(
    lab: &Lab,
    namespace: &'a Namespace,
    (terms, role): (&Terms, Role),
    keys: &Keys,
) -> Result<Site<'a>> {
    let setting = Setting {
        gate: "off",
        dataplane: "xfrm",
        node: 1,
    };
    let mut site = Site::prepare(lab, namespace, setting, &dialect::rekindle(terms, role))?;
    if let Auth::Certificate { key, .. } = terms.auth {
        let [own, _] = dialect::ends(terms, role);
        keys.authorities[0].equip(site.folder(), key.kind(), own.id)?;
        keys.authorities[0].be_trusted_in(site.folder())?;
    }
    if let Some([own, other]) = &keys.bare {
        own.equip(site.folder())?;
        other.be_known_in(site.folder())?;
    }
    site.start(lab)?;
    Ok(site)
}

impl Bout<'_> {
    /// The initiator's machine loses all it knows, as in a power cut, and starts anew.
    pub(super) fn initiator_loses_all(&mut self) -> Result<()> {
        let client = &self.ground.client;
        match self.role {
            Role::Initiator => self.rekindle.kill()?,
            Role::Responder => self.peer.kill()?,
        }
        client.ip("xfrm state flush")?;
        client.ip("xfrm policy flush")?;
        match self.role {
            Role::Initiator => self.rekindle.start(self.lab),
            Role::Responder => {
                let with = (&self.terms, self.role);
                self.peer = Peer::start(self.lab, client, self.foreign, with, &self.keys)?;
                Ok(())
            }
        }
    }

    /// Whoever is to call does.
    pub(super) fn call(&self) -> Result<()> {
        match self.role {
            Role::Initiator => {
                let up = self.rekindle.ikectl(&format!("up {NAME}"))?;
                ensure!(up["resumed"] == false, "{up}");
                Ok(())
            }
            Role::Responder if self.terms.apart => {
                self.peer.up()?;
                self.peer.up_second()
            }
            Role::Responder => self.peer.up(),
        }
    }

    /// Logs in, and sees traffic through; what was on the wire meanwhile.
    pub(super) fn come_up(&self) -> Result<Traffic> {
        let watch = self.ground.watch()?;
        self.call()?;
        let packets = self.ground.ping(&self.terms)?;
        let traffic = watch.stop()?;
        self.is_esp(&traffic, packets)?;
        Ok(traffic)
    }

    /// Sees traffic through an SA that stands.
    pub(super) fn carries(&self) -> Result<()> {
        let watch = self.ground.watch()?;
        let packets = self.ground.ping(&self.terms)?;
        self.is_esp(&watch.stop()?, packets)
    }

    /// All packets were ESP of the right kind, nothing was in clear, and both kernels have counted octets
    /// both ways.
    fn is_esp(&self, traffic: &Traffic, packets: u64) -> Result<()> {
        let tally = traffic.tally;
        let right = match self.terms.outer {
            Outer::V4 | Outer::V6 if !self.terms.encap => (packets, 0, 0),
            _ => (0, packets, 0),
        };
        ensure!(
            (tally.esp, tally.esp_in_udp, tally.clear) == right,
            "{packets} packets went through, but on the wire were {tally:?}"
        );
        for (kernel, counts) in ["client", "gateway"].iter().zip(self.ground.counted()?) {
            let counting = counts.iter().filter(|count| **count > 0).count();
            ensure!(
                counting >= 2,
                "{kernel}'s ESP states have counted {counts:?} octets"
            );
        }
        Ok(())
    }

    /// Rekindle's one IKE SA.
    pub(super) fn sa(&self) -> Result<Value> {
        self.rekindle.established()
    }

    /// SPIs of the IKE SA and of the Child SA.
    pub(super) fn spis(&self) -> Result<[String; 2]> {
        let sa = self.sa()?;
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let child =
            text(&sa["children"][0]["spi_in"]).with_context(|| format!("a Child SA: {sa}"))?;
        Ok([text(&sa["spi_i"]).context("SPIi")?, child])
    }

    /// The initiator deletes, and nothing is left at either end.
    pub(super) fn goodbye(&self) -> Result<()> {
        match self.role {
            Role::Initiator => self.we_delete(),
            Role::Responder => self.they_delete(),
        }
    }

    pub(super) fn we_delete(&self) -> Result<()> {
        self.rekindle.ikectl(&format!("down {NAME}"))?;
        self.is_clean()
    }

    pub(super) fn they_delete(&self) -> Result<()> {
        // libreswan keeps an IKE SA for as long as another of its connections has a Child SA on it.
        if self.terms.apart && self.foreign == Foreign::Libreswan {
            self.peer.down_second()?;
        }
        self.peer.down()?;
        self.is_clean()
    }

    /// Waits until neither kernel has an ESP state and neither daemon an SA.
    pub(super) fn is_clean(&self) -> Result<()> {
        until("all SAs are gone at both ends", PATIENCE, || {
            let ours = self.rekindle.ikectl("sa")?;
            let ours = ours.as_array().is_some_and(Vec::is_empty);
            Ok(ours && self.ground.is_bare()? && self.peer.is_idle()?)
        })
    }
}
