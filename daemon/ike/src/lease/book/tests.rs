use super::*;
use crate::{
    crypto::Secret,
    peer::{
        Child, Compat, Connection, Credential, LocalAuth, Proof, Redirection, RemoteAuth, Resume,
        Start, Suspend, Unique,
    },
};

const WALL: u64 = 1_800_000_000;

fn at(seconds: u64) -> Stamp {
    Stamp {
        boot: Duration::from_secs(seconds),
        wall: WALL + seconds,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pool(name: &str, first: &str, last: &str) -> Arc<Pool> {
    Arc::new(Pool {
        name: name.into(),
        ranges: vec![address(first)..=address(last)],
        networks: Vec::new(),
        dns: Vec::new(),
        domains: Vec::new(),
    })
}

fn connection(name: &str, pools: &[Arc<Pool>]) -> Connection {
    let id = Identity::from_text("gw.example").expect("identity");
    let key = || Secret::new(vec![1; 16]);
    Connection {
        name: name.into(),
        local_addr: None,
        more_addrs: Vec::new(),
        remote_addr: None,
        remote_hosts: Vec::new(),
        remote_port: 500,
        local: LocalAuth {
            id,
            credential: Credential::PreShared(key()),
            rsa_padding: crate::crypto::RsaPadding::default(),
        },
        remote: RemoteAuth {
            id: None,
            pattern: None,
            proof: Proof::PreShared(key()),
        },
        ike_suites: Vec::new(),
        children: vec![Child {
            start: Start::Up,
            name: "net".into(),
            local_ts: Vec::new(),
            local_dynamic: false,
            remote_ts: Vec::new(),
            remote_dynamic: true,
            carriage: crate::kernel::Carriage::default(),
            proposals: Vec::new(),
            lifetime: Duration::ZERO,
            rekey: Duration::ZERO,
        }],
        fragment_size: None,
        ike_lifetime: Duration::ZERO,
        rekey: Duration::ZERO,
        reauth: None,
        liveness: Duration::ZERO,
        resume: Resume {
            enabled: false,
            suspend: Suspend::Memory,
            by_reference: false,
            ticket_lifetime: Duration::ZERO,
        },
        pools: pools.to_vec(),
        vips: Vec::new(),
        unique: Unique::Replace,
        leases_per_identity: Connection::LEASES_PER_IDENTITY,
        childless: false,
        encap: false,
        redirect: Redirection::Follow,
        redirect_to: None,
        compat: Compat::Rfc,
        mobike: false,
        digest: [0; 32],
    }
}

/// A gateway with one connection.
struct Site {
    book: Book,
    connection: Connection,
}

impl Site {
    fn new(pools: &[Arc<Pool>]) -> Self {
        Self {
            book: Book::new(pools.to_vec()),
            connection: connection("rw", pools),
        }
    }

    fn lease(&mut self, peer: &str, wanted: &str, now: u64) -> Option<(LeaseId, IpAddr)> {
        let peer = Identity::from_text(peer).expect("identity");
        let (granted, _) = self
            .book
            .lease(&LeaseRequest {
                connection: &self.connection,
                peer: &peer,
                wanted: &[address(wanted)],
                now: at(now),
            })
            .ok()?;
        Some((granted.id, granted.addresses[0]))
    }

    fn any(&mut self, peer: &str, now: u64) -> Option<(LeaseId, IpAddr)> {
        self.lease(peer, "0.0.0.0", now)
    }
}

#[test]
fn addresses_are_new_while_there_are_new_ones_then_the_oldest_that_is_free() {
    let mut site = Site::new(&[pool("a", "10.3.0.1", "10.3.0.3")]);
    let held: Vec<_> = (0..3)
        .map(|i| site.any(&format!("p{i}.example"), i).expect("new"))
        .collect();
    assert_eq!(held[2].1, address("10.3.0.3"));
    assert_eq!(site.any("late.example", 5), None, "all in use");
    for (at_second, i) in [(10, 1), (10, 2), (20, 0)] {
        site.book.end(held[i].0, at(at_second));
    }
    // In the order in which they were given back, also within one second.
    for (peer, i) in [("x.example", 1), ("y.example", 2), ("z.example", 0)] {
        assert_eq!(site.any(peer, 30).expect("free").1, held[i].1);
    }
    assert_eq!(
        site.any("p1.example", 40),
        None,
        "its lease has gone to another"
    );
    let view = &site.book.pools()[0];
    assert_eq!((view.size, view.leases, view.online), (3, 3, 3));
}

#[test]
fn a_peer_gets_its_own_whatever_it_asks_for() {
    let mut site = Site::new(&[pool("a", "10.3.0.1", "10.3.0.9")]);
    let (first, mine) = site.any("p.example", 0).expect("new");
    site.book.end(first, at(1));
    assert_eq!(
        site.lease("p.example", "10.3.0.7", 2).expect("its own").1,
        mine
    );
    // Somebody new may choose what never was anybody's, and nothing else.
    assert_eq!(
        site.lease("q.example", &mine.to_string(), 3)
            .expect("new")
            .1,
        address("10.3.0.2")
    );
    assert_eq!(
        site.lease("r.example", "10.3.0.7", 3).expect("new").1,
        address("10.3.0.7")
    );
    assert_eq!(
        site.lease("s.example", "192.0.2.7", 3).expect("new").1,
        address("10.3.0.3")
    );
    assert_eq!(
        site.lease("t.example", "::", 3),
        None,
        "no pool of that family"
    );
}

#[test]
fn a_lease_is_in_use_while_any_sa_has_it() {
    let mut site = Site::new(&[pool("a", "10.3.0.1", "10.3.0.1")]);
    let (old, mine) = site.any("p.example", 0).expect("new");
    let (new, again) = site.any("p.example", 5).expect("its own");
    assert_eq!(mine, again);
    assert!(site.book.end(old, at(6)).is_empty(), "the newer SA has it");
    assert!(site.book.end(old, at(6)).is_empty(), "nothing twice");
    assert_eq!(site.any("q.example", 7), None);
    assert_eq!(site.book.end(new, at(8)).len(), 1);
    assert_eq!(site.any("q.example", 9).expect("free").1, mine);
}

#[test]
fn the_same_peer_has_one_lease_in_each_connection() {
    let pools = [pool("a", "10.3.0.1", "10.3.0.9")];
    let mut site = Site::new(&pools);
    let (_, one) = site.any("p.example", 0).expect("new");
    site.connection = connection("other", &pools);
    let (_, two) = site.any("p.example", 0).expect("new");
    assert_ne!(one, two);
}

#[test]
fn one_identity_of_many_logins_cannot_eat_the_pool() {
    let mut site = Site::new(&[pool("rw", "10.3.0.1", "10.3.0.9")]);
    site.connection.unique = Unique::Never;
    site.connection.leases_per_identity = 3;
    let mine: Vec<_> = (0..3).filter_map(|at| site.any("p.example", at)).collect();
    assert_eq!(mine.len(), 3);
    assert_eq!(site.any("p.example", 4), None);
    let peer = Identity::from_text("p.example").expect("identity");
    let mut ask = |wanted: &[&str]| {
        let wanted: Vec<_> = wanted.iter().map(|text| address(text)).collect();
        let request = LeaseRequest {
            connection: &site.connection,
            peer: &peer,
            wanted: &wanted,
            now: at(5),
        };
        site.book
            .lease(&request)
            .map(|(granted, _)| granted.addresses)
    };
    assert_eq!(ask(&["0.0.0.0"]), Err(NoLease::Enough(3)));
    // Not by asking for one that is free, either; and what it has is its own.
    assert_eq!(ask(&["10.3.0.8"]), Err(NoLease::Enough(3)));
    assert_eq!(ask(&["10.3.0.2"]), Ok(vec![address("10.3.0.2")]));
    assert_eq!(ask(&["::"]), Err(NoLease::Exhausted), "of no pool");
    assert!(site.any("q.example", 6).is_some(), "others have theirs");
    site.book.end(mine[0].0, at(7));
    assert_eq!(site.any("p.example", 8).map(|one| one.1), Some(mine[0].1));
}

#[test]
fn leases_outlive_a_restart_in_their_order() {
    let pools = [pool("a", "10.3.0.1", "10.3.0.3")];
    let mut site = Site::new(&pools);
    for (peer, end) in [("p.example", 3), ("q.example", 1), ("r.example", 2)] {
        let (id, _) = site.any(peer, 0).expect("new");
        site.book.end(id, at(end));
    }
    let records: Vec<_> = site
        .book
        .leases()
        .into_iter()
        .map(|view| view.record)
        .collect();
    let mut again = Site::new(&pools);
    for record in records.iter().rev() {
        assert!(again.book.restore(record.clone()));
        assert!(!again.book.restore(record.clone()), "once");
    }
    assert_eq!(
        again.any("q.example", 10).expect("its own").1,
        address("10.3.0.2")
    );
    assert_eq!(
        again.any("new.example", 10).expect("r's").1,
        address("10.3.0.1"),
        "last ended in the loop's order"
    );
    let mut elsewhere = Site::new(&[pool("a", "10.4.0.1", "10.4.0.3")]);
    assert!(
        !elsewhere.book.restore(records[0].clone()),
        "in no pool any more"
    );
}

#[test]
fn what_is_spoken_for_goes_to_its_owner_or_waits() {
    let mut site = Site::new(&[pool("a", "10.3.0.1", "10.3.0.2")]);
    site.book
        .speak_for(address("10.3.0.1"), Duration::from_secs(100));
    assert_eq!(
        site.any("p.example", 0).expect("new").1,
        address("10.3.0.2")
    );
    assert_eq!(site.any("q.example", 50), None);
    // Whoever names it had it: nobody else can know.
    let (id, _) = site.lease("r.example", "10.3.0.1", 50).expect("its own");
    site.book.end(id, at(60));
    assert_eq!(
        site.any("q.example", 70).expect("free").1,
        address("10.3.0.1")
    );
    let mut site = Site::new(&[pool("a", "10.3.0.1", "10.3.0.1")]);
    site.book
        .speak_for(address("10.3.0.1"), Duration::from_secs(100));
    assert_eq!(site.any("p.example", 99), None);
    assert!(site.any("p.example", 100).is_some());
}

#[test]
fn a_large_pool_costs_no_more_than_a_small_one() {
    let mut site = Site::new(&[pool("a", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff")]);
    let peers = 5000;
    for i in 0..peers {
        let (_, got) = site.lease(&format!("p{i}.example"), "::", 0).expect("new");
        assert_eq!(got, nth(&site.connection.pools[0].ranges[0], i));
    }
    let state = site.book.pools.values().next().expect("the pool");
    assert_eq!(state.marks, [peers], "nothing is looked at twice");
}
