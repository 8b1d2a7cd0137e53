//! Our own certificates, and what of them an operator has to see to before peers refuse them.

use std::{collections::BTreeMap, sync::Arc};

use ike::{
    peer::Connection,
    trust::{Flaw, OwnChain},
};

/// Lines in one answer.
const TOLD: usize = 8;

/// What each connection proves itself with that is a certificate.
#[derive(Debug, Default)]
pub struct OwnCertificates(Vec<(Arc<str>, OwnChain)>);

impl OwnCertificates {
    /// Those of these connections.
    pub fn of<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Self {
        let own = |connection: &Connection| {
            let chain = OwnChain::of(&connection.local)?;
            Some((Arc::clone(&connection.name), chain))
        };
        Self(connections.into_iter().filter_map(own).collect())
    }

    /// What peers mind at this Unix time or soon will, a line each, however many connections it is about.
    #[must_use]
    pub fn flaws(&self, wall: u64) -> Vec<String> {
        self.lines(wall, |_| true)
    }

    /// Of these, what time alone has brought. The others were told when the files were read, and an
    /// operator whose peers do not mind is not to hear of them for ever.
    #[must_use]
    pub fn dated_flaws(&self, wall: u64) -> Vec<String> {
        self.lines(wall, Flaw::is_dated)
    }

    fn lines(&self, wall: u64, told: impl Fn(&Flaw) -> bool) -> Vec<String> {
        let mut about: BTreeMap<String, (&str, usize)> = BTreeMap::new();
        for (name, chain) in &self.0 {
            for flaw in chain.flaws(wall).into_iter().filter(&told) {
                let (_, others) = about.entry(flaw.to_string()).or_insert((&**name, 0));
                *others += 1;
            }
        }
        let line = |(flaw, (name, of)): (String, (&str, usize))| match of {
            1 => format!("{name}: {flaw}"),
            _ => format!("{name} and {} more: {flaw}", of - 1),
        };
        about.into_iter().map(line).take(TOLD).collect()
    }
}
