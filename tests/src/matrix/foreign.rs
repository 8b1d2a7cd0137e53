//! What a case asks of the foreign daemon, whichever it is.

use std::{fmt::Write as _, fs, rc::Rc};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{
    dialect,
    terms::{Auth, Foreign, Key, NAME, Role, SECOND, Stranger, Terms},
};
use crate::{
    netns::Namespace,
    peer::{Libreswan, Nss, Strongswan},
    pki::{Authority, BareKey, CA, KeyKind, OWN},
    suite::Lab,
};

/// A foreign daemon with the case's connection loaded.
pub(super) enum Peer<'a> {
    Strongswan(Strongswan<'a>),
    Libreswan(Libreswan<'a>),
}

/// What both ends prove themselves with: Rekindle's, then the foreign daemon's.
pub(super) struct Keys {
    /// Who signs for whom; the same for both unless the foreign daemon is to be a stranger.
    pub(super) authorities: [Rc<Authority>; 2],
    /// Keys that need nobody's signature.
    pub(super) bare: Option<[BareKey; 2]>,
}

impl<'a> Peer<'a> {
    pub(super) fn start(
        lab: &Lab,
        namespace: &'a Namespace,
        foreign: Foreign,
        (terms, role): (&Terms, Role),
        keys: &Keys,
    ) -> Result<Self> {
        let authorities = &keys.authorities;
        match foreign {
            Foreign::Strongswan => {
                let swan = Strongswan::start(lab, namespace, terms.swan_daemon)?;
                if let Auth::Certificate { key, .. } = terms.auth {
                    authorities[1].equip(swan.folder(), key.kind(), named(terms, role))?;
                    authorities[1].bring_intermediates(swan.folder())?;
                    authorities[0].be_trusted_in(swan.folder())?;
                }
                if let Some([other, own]) = &keys.bare {
                    own.equip(swan.folder())?;
                    other.be_known_in(swan.folder())?;
                }
                swan.load(&dialect::strongswan(terms, role))?;
                Ok(Self::Strongswan(swan))
            }
            Foreign::Libreswan => {
                let nss = Nss::create(lab, namespace)?;
                if let Auth::Certificate { key, .. } = terms.auth {
                    let folder = nss.folder();
                    authorities[1].equip(folder, key.kind(), named(terms, role))?;
                    authorities[0].be_trusted_in(folder)?;
                    let (certificate, private) = (
                        folder.join("x509").join(OWN),
                        folder.join("private").join(OWN),
                    );
                    nss.own(NAME, &certificate, &private)?;
                    nss.trust("authority", &folder.join("x509ca").join(CA))?;
                    for file in authorities[1].bring_intermediates(folder)? {
                        nss.intermediate("intermediate", &file)?;
                    }
                }
                let mut configuration = dialect::libreswan(terms, role);
                if let Some([other, own]) = &keys.bare {
                    let folder = nss.folder();
                    own.equip(folder)?;
                    let (certificate, private) = (
                        folder.join("x509").join(OWN),
                        folder.join("private").join(OWN),
                    );
                    nss.own(NAME, &certificate, &private)?;
                    nss.keep_bare(NAME)?;
                    for (side, key) in [("left", own), ("right", other)] {
                        let _ = writeln!(configuration, "    {side}pubkey={}", key.base64());
                    }
                }
                let pluto = Libreswan::start(lab, namespace, nss, terms.libre_daemon)?;
                let secret = dialect::libreswan_secret(terms);
                pluto.load(NAME, &secret, &configuration)?;
                if terms.apart {
                    pluto.load(SECOND, &secret, &configuration)?;
                }
                Ok(Self::Libreswan(pluto))
            }
        }
    }

    /// SIGKILL; its files go as well.
    pub(super) fn kill(&mut self) -> Result<()> {
        let (daemon, folder) = match self {
            Self::Strongswan(swan) => (&swan.daemon, swan.folder()),
            Self::Libreswan(pluto) => (&pluto.daemon, pluto.folder()),
        };
        daemon.signal(Signal::SIGKILL)?;
        Ok(fs::remove_dir_all(folder)?)
    }

    /// Calls Rekindle; an error says what the daemon said.
    pub(super) fn up(&self) -> Result<()> {
        match self {
            Self::Strongswan(swan) => swan
                .swanctl("--initiate --child net --timeout 20")
                .map(drop),
            Self::Libreswan(pluto) => {
                let said = pluto.whack(&format!("--initiate --name {NAME}"))?;
                ensure!(said.contains("established Child SA"), "{said}");
                Ok(())
            }
        }
    }

    /// Asks for the second Child SA.
    pub(super) fn up_second(&self) -> Result<()> {
        match self {
            Self::Strongswan(swan) => swan
                .swanctl(&format!("--initiate --child {SECOND} --timeout 20"))
                .map(drop),
            Self::Libreswan(pluto) => {
                let said = pluto.whack(&format!("--initiate --name {SECOND}"))?;
                ensure!(said.contains("established Child SA"), "{said}");
                Ok(())
            }
        }
    }

    /// Deletes the second Child SA, and says so to Rekindle.
    pub(super) fn down_second(&self) -> Result<()> {
        match self {
            Self::Strongswan(swan) => swan
                .swanctl(&format!("--terminate --child {SECOND} --timeout 10"))
                .map(drop),
            Self::Libreswan(pluto) => pluto
                .whack(&format!("--terminate --name {SECOND}"))
                .map(drop),
        }
    }

    /// Deletes the IKE SA, and says so to Rekindle.
    pub(super) fn down(&self) -> Result<()> {
        match self {
            Self::Strongswan(swan) => swan
                .swanctl(&format!("--terminate --ike {NAME} --timeout 10"))
                .map(drop),
            Self::Libreswan(pluto) => pluto.whack(&format!("--terminate --name {NAME}")).map(drop),
        }
    }

    /// New keys for the IKE SA.
    pub(super) fn rekey_ike(&self) -> Result<()> {
        match self {
            Self::Strongswan(swan) => swan.swanctl(&format!("--rekey --ike {NAME}")).map(drop),
            Self::Libreswan(pluto) => pluto
                .whack(&format!("--rekey-ike --asynchronous --name {NAME}"))
                .map(drop),
        }
    }

    /// New keys for the Child SA.
    pub(super) fn rekey_child(&self) -> Result<()> {
        match self {
            Self::Strongswan(swan) => swan.swanctl("--rekey --child net").map(drop),
            Self::Libreswan(pluto) => pluto
                .whack(&format!("--rekey-ipsec --asynchronous --name {NAME}"))
                .map(drop),
        }
    }

    /// Sends whoever calls it from now on to another gateway.
    pub(super) fn redirect_callers(&self, to: &str) -> Result<()> {
        let Self::Libreswan(pluto) = self else {
            bail!("a gateway that cannot");
        };
        pluto.whack(&format!("--global-redirect-to {to}"))?;
        pluto.whack("--global-redirect yes").map(drop)
    }

    /// Sends those whose SA stands to another gateway.
    pub(super) fn redirect_clients(&self, to: &str) -> Result<()> {
        let Self::Libreswan(pluto) = self else {
            bail!("a gateway that cannot");
        };
        pluto
            .whack(&format!("--name {NAME} --redirect-to {to}"))
            .map(drop)
    }

    /// What it has logged.
    pub(super) fn log(&self) -> Result<String> {
        match self {
            Self::Strongswan(swan) => swan.daemon.output(),
            Self::Libreswan(pluto) => pluto.daemon.output(),
        }
    }

    /// Whether it has no SA at all.
    pub(super) fn is_idle(&self) -> Result<bool> {
        match self {
            Self::Strongswan(swan) => Ok(swan.swanctl("--list-sas")?.trim().is_empty()),
            Self::Libreswan(pluto) => Ok(!pluto.whack("--showstates")?.contains("STATE_")),
        }
    }
}

impl Key {
    /// What the certificate is for.
    pub(super) const fn kind(self) -> KeyKind {
        match self {
            Self::P256 => KeyKind::P256,
            Self::P384 => KeyKind::P384,
            Self::Ed25519 => KeyKind::Ed25519,
            Self::RsaPss | Self::RsaPkcs1 | Self::RsaOurPkcs1 => KeyKind::Rsa,
        }
    }
}

/// The name in the foreign daemon's certificate.
fn named(terms: &Terms, role: Role) -> &'static str {
    let [_, other] = dialect::ends(terms, role);
    match terms.stranger {
        Stranger::OtherName => "somebody.else.example",
        _ => other.id,
    }
}
