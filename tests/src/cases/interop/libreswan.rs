//! Rekindle and libreswan log in to each other. The whole table of what works between them is the
//! matrix's affair; these two say every day whether anything does.

use anyhow::Result;

use crate::{
    matrix::{Foreign, Role, play},
    suite::{Case, Lab},
};

/// libreswan calls with a key.
pub(super) const CALLED_PSK: Case = Case {
    name: "libreswan_calls_rekindle_by_key_and_deletes",
    run: called_psk,
};
/// We call with a certificate.
pub(super) const CALLING_CERTIFICATE: Case = Case {
    name: "rekindle_calls_libreswan_by_certificate_and_deletes",
    run: calling_certificate,
};

fn called_psk(lab: &mut Lab) -> Result<()> {
    play(lab, Foreign::Libreswan, Role::Responder, "PSK")
}

fn calling_certificate(lab: &mut Lab) -> Result<()> {
    let case = "ECDSA P-256 certificates";
    play(lab, Foreign::Libreswan, Role::Initiator, case)
}
