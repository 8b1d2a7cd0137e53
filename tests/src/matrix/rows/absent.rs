//! What Rekindle does not do yet.

use super::{Case, Lack, USUAL};

const NOT_BUILT: &[Lack] = &[everybody("Rekindle: not built")];

pub(super) const CASES: &[Case] = &[absent("redirect", NOT_BUILT)];

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
