//! The lines of the table, by what they are about.

mod children;
mod detours;
mod life;
mod logins;
mod moves;
mod pools;
mod reach;
mod reauth;
mod redirect;
mod refusals;
mod suites;
mod transport;

use super::{Case, Lack, bout::Bout, terms::PLAIN};

/// Every case, in the order of the table.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    [
        logins::CASES,
        suites::CASES,
        reach::CASES,
        transport::CASES,
        detours::CASES,
        life::CASES,
        moves::CASES,
        reauth::CASES,
        redirect::CASES,
        children::CASES,
        pools::CASES,
        refusals::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Logs in, sees traffic through, and says goodbye.
const USUAL: Case = Case {
    name: "",
    terms: PLAIN,
    plot: usual,
    lacks: &[],
};

fn usual(bout: &mut Bout<'_>) -> anyhow::Result<()> {
    bout.come_up()?;
    bout.goodbye()
}
