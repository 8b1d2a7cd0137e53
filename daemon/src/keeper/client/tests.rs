//! What a batch of answers means to each worker.

use super::*;

#[test]
fn whoever_has_lost_an_sa_hears_of_its_own_operations_first() {
    let ended = |worker, op, taken| Ended {
        worker,
        op,
        result: Ok(()),
        taken,
    };
    let taken = Taken {
        worker: 0,
        owner: "office/net".to_owned(),
        inbound: 7,
    };
    let results = vec![
        ended(0, 1, None),
        ended(0, 2, None),
        ended(1, 1, Some(taken)),
        ended(0, 3, None),
    ];
    let said: Vec<_> = events_of(results)
        .into_iter()
        .map(|(worker, event)| match event {
            KeeperEvent::Kernel(ops) => {
                (worker, ops.iter().map(|(op, _)| op.0).collect::<Vec<_>>())
            }
            KeeperEvent::Taken { inbound, .. } => (worker, vec![u64::from(inbound)]),
            event => panic!("{event:?}"),
        })
        .collect();
    let expected: [(u8, &[u64]); 4] = [(0, &[1, 2]), (1, &[1]), (0, &[7]), (0, &[3])];
    assert!(
        said.iter().map(|(w, ops)| (*w, &ops[..])).eq(expected),
        "{said:?}"
    );
}
