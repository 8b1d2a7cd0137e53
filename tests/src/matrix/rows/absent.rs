//! What Rekindle does not do yet, or nobody has made a case of.

use super::{Case, Lack, USUAL};

const NOT_BUILT: &[Lack] = &[everybody("Rekindle: not built")];
const NO_CASE: &[Lack] = &[everybody(
    "no case of the matrix yet; with strongSwan in the interop suite",
)];
const ONE_CHILD: &[Lack] = &[everybody("Rekindle: one Child SA on each IKE SA")];
const NO_PORTS: &[Lack] = &[everybody(
    "Rekindle: protocols and ports cannot be configured",
)];

pub(super) const CASES: &[Case] = &[
    absent("protocols and ports in selectors", NO_PORTS),
    absent("several Child SAs", ONE_CHILD),
    absent("address pool", NO_CASE),
    absent("redirect", NOT_BUILT),
];

const fn absent(name: &'static str, lacks: &'static [Lack]) -> Case {
    Case {
        name,
        lacks,
        ..USUAL
    }
}

const fn everybody(why: &'static str) -> Lack {
    Lack {
        foreign: None,
        role: None,
        why,
    }
}
