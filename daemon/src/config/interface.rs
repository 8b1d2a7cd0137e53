//! `interface` of a child: an xfrm interface that the daemon makes, to [`crate::kernel::XfrmInterface`].

use ike::kernel::{Carriage, Mode};

use super::{
    section::{Entry, Section},
    settings,
};
use crate::kernel::XfrmInterface;

/// Interfaces that the daemon makes.
pub const MAX_INTERFACES: usize = 256;

/// What one child wants, and where it says so.
pub(super) struct Claim<'a> {
    wanted: XfrmInterface,
    entry: Entry<'a>,
}

/// Reads the key of one child; nothing is noted where how it is carried is wrong already.
pub(super) fn claim<'a>(section: &Section<'a>, carriage: Option<&Carriage>) -> Option<Claim<'a>> {
    let entry = section.entry("interface")?;
    let name = settings::interface(entry.string()?, &entry)?;
    let carriage = carriage?;
    let if_id = carriage.if_id.outbound;
    if if_id == 0 || carriage.if_id.inbound != if_id {
        entry.fail(
            "an xfrm interface has one number for both ways; write if_id_in and if_id_out, the same \
             number above 0",
        );
        return None;
    }
    if carriage.mode == Mode::Transport {
        entry.fail(
            "\"transport\" is between the two hosts themselves, and a route to the peer through the \
             interface would lead ESP there too; drop it, or interface",
        );
        return None;
    }
    Some(Claim {
        wanted: XfrmInterface { name, if_id },
        entry,
    })
}

/// What is to be made; of two that cannot both be had, the later one is noted.
pub(super) fn settle(claims: &[Claim<'_>]) -> Vec<XfrmInterface> {
    let mut settled: Vec<XfrmInterface> = Vec::new();
    for Claim { wanted, entry } in claims {
        let XfrmInterface { name, if_id } = wanted;
        let rival = settled
            .iter()
            .find(|one| one.name == *name || one.if_id == *if_id);
        match rival {
            Some(rival) if rival == wanted => {}
            Some(rival) => entry.fail(format!(
                "{name} with if_id {if_id}: another child has {} with if_id {}; give each name one number",
                rival.name, rival.if_id
            )),
            None if settled.len() == MAX_INTERFACES => {
                entry.fail(format!("is one more than {MAX_INTERFACES} interfaces"));
                break;
            }
            None => settled.push(wanted.clone()),
        }
    }
    settled
}
