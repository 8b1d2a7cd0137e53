//! Peers that must not get in: whoever calls is told, and nothing goes as ESP.

use anyhow::{Context as _, Result, ensure};

use super::{
    super::{
        bout::Bout,
        terms::{Auth, Key, PLAIN, Role, Stranger, Terms},
    },
    Case, USUAL,
};

const CERTIFICATES: Auth = Auth::Certificate {
    key: Key::P256,
    intermediate: false,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "another pre-shared key is refused",
        terms: Terms {
            stranger: Stranger::OtherKey,
            ..PLAIN
        },
        plot: refused,
        ..USUAL
    },
    Case {
        name: "a certificate of another authority is refused",
        terms: Terms {
            auth: CERTIFICATES,
            stranger: Stranger::OtherAuthority,
            ..PLAIN
        },
        plot: refused,
        ..USUAL
    },
    Case {
        name: "a certificate with another name is refused",
        terms: Terms {
            auth: CERTIFICATES,
            stranger: Stranger::OtherName,
            ..PLAIN
        },
        plot: refused,
        ..USUAL
    },
];

fn refused(bout: &mut Bout<'_>) -> Result<()> {
    let said = bout.call().err().context("the stranger got in")?;
    let said = format!("{said:#}");
    let known = match bout.role {
        Role::Initiator => said.contains("auth_failed"),
        Role::Responder => said.contains("AUTH"),
    };
    ensure!(known, "{said}");
    bout.ground.has_no_esp()?;
    bout.is_clean()
}
