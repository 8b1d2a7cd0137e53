//! The octets themselves: offsets as iproute2 and the kernel headers have them.

use super::{super::route::OUTER_MARK, *};
use crate::kernel::policy::slots;
use ike::{
    crypto::{Integrity, Secret},
    kernel::{Carriage, CopyDscp, EspCipher, Offload, REPLAY_WINDOW, Ways},
    wire::ts::TrafficSelector,
};
use std::time::Duration;

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

static PLAIN: std::sync::LazyLock<Carriage> = std::sync::LazyLock::new(Carriage::default);

fn state(key: &Secret) -> State<'_> {
    State {
        inbound: true,
        source: address("192.0.2.1"),
        id: StateId {
            destination: address("192.0.2.2"),
            spi: 0x0102_0304,
            mark: Mark::default(),
        },
        reqid: 0x5200_0001,
        cipher: EspCipher::AesGcm128,
        key,
        encap: Some((4500, 40000)),
        esn: true,
        hard_lifetime: Duration::from_hours(1),
        carriage: &PLAIN,
        around: false,
        device: 0,
    }
}

fn policy(content: Content) -> Policy {
    let ts = |text| TrafficSelector::from_text(text).expect("network");
    Policy {
        key: slots(&[ts("10.1.0.0/16")], &[ts("10.2.0.7/32")], &PLAIN).expect("slots")[0],
        reqid: 0x5200_0001,
        content,
    }
}

#[test]
fn a_cipher_and_its_mac_have_an_attribute_each() {
    let key = Secret::new((0..32 + 64).collect());
    let with = State {
        cipher: EspCipher::AesCbc256(Integrity::HmacSha512),
        ..state(&key)
    };
    let octets = Request::new_state("adding", &with).octets;
    // crypt: 4 + 64 + 4 + 32
    let mut wanted = Vec::new();
    let mut put = |chunk: &[u8]| wanted.extend_from_slice(chunk);
    put(&104_u16.to_ne_bytes());
    put(&2_u16.to_ne_bytes());
    put(b"cbc(aes)");
    put(&[0; 56]);
    put(&256_u32.to_ne_bytes());
    put(&(0..32).collect::<Vec<u8>>());
    // auth-trunc: 4 + 64 + 4 + 4 + 64
    put(&140_u16.to_ne_bytes());
    put(&20_u16.to_ne_bytes());
    put(b"hmac(sha512)");
    put(&[0; 52]);
    put(&512_u32.to_ne_bytes());
    put(&256_u32.to_ne_bytes());
    put(&(32..96).collect::<Vec<u8>>());
    let at = 16 + STATE_INFO;
    assert_eq!(octets[at..at + wanted.len()], wanted);
    assert!(octets.len() <= REQUEST_ROOM && octets.capacity() <= REQUEST_ROOM);
}

#[test]
fn an_sa_add_has_the_kernels_layout() {
    let key = Secret::new((0..20).collect());
    let octets = Request::new_state("adding", &state(&key)).octets;
    let mut wanted = Vec::new();
    let mut put = |chunk: &[u8]| wanted.extend_from_slice(chunk);
    // nlmsghdr
    put(&416_u32.to_ne_bytes());
    put(&0x10_u16.to_ne_bytes());
    put(&0x601_u16.to_ne_bytes());
    put(&[0; 8]);
    // usersa_info: selector, id, source, limits, current, stats and sequence
    put(&[0; 56]);
    put(&[
        192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 50, 0, 0, 0,
    ]);
    put(&[192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put(&[0xff; 32]);
    put(&0_u64.to_ne_bytes());
    put(&3600_u64.to_ne_bytes());
    put(&[0; 16]);
    put(&[0; 32 + 12 + 4]);
    put(&0x5200_0001_u32.to_ne_bytes());
    put(&2_u16.to_ne_bytes());
    put(&[1, 0, 128 | 32, 0, 0, 0, 0, 0, 0, 0]);
    // AEAD: 4 + 64 + 4 + 4 + 20
    put(&96_u16.to_ne_bytes());
    put(&18_u16.to_ne_bytes());
    put(b"rfc4106(gcm(aes))");
    put(&[0; 47]);
    put(&160_u32.to_ne_bytes());
    put(&128_u32.to_ne_bytes());
    put(&(0..20).collect::<Vec<u8>>());
    // ESN replay state: 4 + 24 + 4 words
    put(&44_u16.to_ne_bytes());
    put(&23_u16.to_ne_bytes());
    put(&4_u32.to_ne_bytes());
    put(&[0; 16]);
    put(&128_u32.to_ne_bytes());
    put(&[0; 16]);
    // ESP in UDP: 4 + 24
    put(&28_u16.to_ne_bytes());
    put(&4_u16.to_ne_bytes());
    put(&2_u16.to_ne_bytes());
    put(&[0x11, 0x94, 0x9c, 0x40]);
    put(&[0; 18]);
    // Seconds between reports of a new mapping: 4 + 4
    put(&8_u16.to_ne_bytes());
    put(&32_u16.to_ne_bytes());
    put(&1_u32.to_ne_bytes());
    assert_eq!(wanted.len(), 16 + 224 + 96 + 44 + 28 + 8);
    assert_eq!(*octets, wanted);
}

#[test]
fn no_request_outgrows_its_first_allocation() {
    let key = Secret::new(vec![7; 32 + 64]);
    let mark = Mark { value: 1, mask: 1 };
    let both = Ways {
        inbound: mark,
        outbound: mark,
    };
    let carriage = Carriage {
        if_id: Ways {
            inbound: 1,
            outbound: 1,
        },
        mark: both,
        set_mark: both,
        copy_dscp: CopyDscp::Neither,
        replay_window: REPLAY_WINDOW.1,
        mss: 1360,
        source_route: true,
        offload: Offload::Packet,
        ..Carriage::default()
    };
    let base = state(&key);
    let longest = State {
        inbound: false,
        id: StateId { mark, ..base.id },
        carriage: &carriage,
        cipher: EspCipher::AesCbc256(Integrity::HmacSha512),
        source: address("2001:db8::1"),
        ..base
    };
    let request = Request::new_state("adding", &longest);
    assert_eq!(request.octets.capacity(), REQUEST_ROOM);
    // In a copy the MAC's key is there twice.
    let copied = request.octets.len() + 140;
    assert!(
        (REQUEST_ROOM - 64..=REQUEST_ROOM).contains(&copied),
        "{copied}"
    );
    let record = parse_state(&request.octets[HEADER..]).expect("a state");
    assert_eq!(record.id.mark, mark);
    assert!(request.octets.windows(12).any(|w| w == b"hmac(sha512)"));
}

#[test]
fn what_leaves_keeps_clear_of_our_routes_unless_it_has_a_mark_of_its_own() {
    let key = Secret::new(vec![7; 20]);
    let mine = Mark {
        value: 9,
        mask: 0xff,
    };
    let own = Carriage {
        set_mark: Ways {
            inbound: Mark::default(),
            outbound: mine,
        },
        ..Carriage::default()
    };
    let plain = Carriage::default();
    let none: [Option<u32>; 2] = [None; 2];
    for (inbound, around, carriage, wanted) in [
        (false, true, &plain, [Some(OUTER_MARK), Some(u32::MAX)]),
        (false, false, &plain, none),
        (true, true, &plain, none),
        (false, true, &own, [Some(9), Some(0xff)]),
    ] {
        let state = State {
            inbound,
            carriage,
            around,
            ..state(&key)
        };
        let octets = Request::new_state("adding", &state).octets;
        let has = [29, 30].map(|wanted| {
            let mut all = attributes(&octets[HEADER + STATE_INFO..]);
            let (_, value) = all.find(|(kind, _)| *kind == wanted)?;
            u32_at(value, 0)
        });
        assert_eq!(has, wanted, "{inbound} {around}");
    }
}

#[test]
fn a_state_reads_back() {
    let key = Secret::new(vec![7; 20]);
    let octets = Request::new_state("adding", &state(&key)).octets;
    let record = parse_state(&octets[HEADER..]).expect("a state");
    assert_eq!(record.id, state(&key).id);
    assert_eq!(record.source, address("192.0.2.1"));
    assert_eq!(record.reqid, 0x5200_0001);
    assert!((0..STATE_INFO).all(|end| parse_state(&octets[HEADER..HEADER + end]).is_none()));
}

#[test]
fn policies_read_back() {
    for content in [
        Content::Block,
        Content::Ipsec {
            source: address("2001:db8::1"),
            destination: address("2001:db8::2"),
            spi: 9,
            mode: Mode::Transport,
        },
    ] {
        let request = Request::put_policy(&policy(content));
        let body = &request.octets[HEADER..];
        assert_eq!(parse_policy(body), Some(policy(content)));
        assert!((0..POLICY_INFO).all(|end| parse_policy(&body[..end]).is_none()));
    }
}

#[test]
fn what_lets_pass_is_known_again_and_anothers_is_not() {
    let pass = policy(Content::Pass);
    let mut octets = Request::add_policy(&pass).octets[HEADER..].to_vec();
    let known = parse_policy(&octets).expect("ours");
    assert_eq!((known.key, known.content), (pass.key, Content::Pass));
    octets[152] ^= 1;
    assert_eq!(parse_policy(&octets), None);
}

#[test]
fn a_policy_of_an_interface_and_a_mark_is_another_one() {
    let mut other = policy(Content::Block);
    other.key.if_id = 7;
    other.key.mark = Mark {
        value: 0x10,
        mask: 0xf0,
    };
    let request = Request::put_policy(&other);
    assert_eq!(parse_policy(&request.octets[HEADER..]), Some(other));
    let deleted = Request::delete_policy(&other.key).octets.len();
    assert_eq!(deleted, HEADER + 64 + 12 + 8);
}

#[test]
fn lengths_are_the_kernels() {
    let block = Request::put_policy(&policy(Content::Block));
    assert_eq!(block.octets.len(), HEADER + POLICY_INFO);
    let id = StateId {
        destination: address("192.0.2.2"),
        spi: 1,
        mark: Mark::default(),
    };
    assert_eq!(Request::delete_state(id).octets.len(), HEADER + 24);
    let key = policy(Content::Block).key;
    assert_eq!(Request::delete_policy(&key).octets.len(), HEADER + 64);
    assert_eq!(Request::set_thresholds().octets.len(), HEADER + 4 + 8 + 8);
}

#[test]
fn thresholds_read_back() {
    let octets = Request::set_thresholds().octets;
    let info = parse_spd(&octets[HEADER..]).expect("SPD info");
    assert_eq!(info.thresholds, HASH_THRESHOLDS);
    assert_eq!(info.policies, 0);
}

#[test]
fn attributes_that_lie_about_their_length_end_the_walk() {
    assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
    assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    assert_eq!(attributes(&[5, 0, 1, 0, 9]).count(), 1);
}

#[test]
fn events_tell_whose_they_are() {
    let policy = policy(Content::Ipsec {
        source: address("192.0.2.1"),
        destination: address("192.0.2.2"),
        spi: 0,
        mode: Mode::Tunnel,
    });
    let request = Request::put_policy(&policy);
    let mut acquire = vec![0; STATE_ID + 16 + SELECTOR];
    let (fixed, attributes) = request.octets[HEADER..].split_at(POLICY_INFO);
    acquire.extend_from_slice(fixed);
    acquire.extend_from_slice(&[0; 16]);
    acquire.extend_from_slice(attributes);
    assert_eq!(parse_acquire(&acquire), Some(0x5200_0001));

    let key = Secret::new(vec![7; 20]);
    let state = Request::new_state("adding", &state(&key)).octets;
    let mut expire = state[HEADER..HEADER + STATE_INFO].to_vec();
    expire.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    let (record, hard) = parse_expire(&expire).expect("an event");
    assert!(hard && record.reqid == 0x5200_0001);
    for end in 0..acquire.len() {
        let _ = parse_acquire(&acquire[..end]);
    }
    assert!((0..STATE_INFO).all(|end| parse_expire(&expire[..end]).is_none()));
}

/// Of kernel 6.1: two ends, the state's SPI and reqid, and where its packets came from and come from.
#[test]
fn a_new_mapping_reads_as_where_packets_come_from() {
    for (ours, before, now) in [
        ("192.0.2.1", "192.0.2.2", "198.51.100.7"),
        ("2001:db8::1", "2001:db8::2", "2001:db8::7"),
    ] {
        let [ours, before, now] = [ours, before, now].map(address);
        let sixteen = |address: IpAddr| {
            let mut octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            octets.resize(16, 0);
            octets
        };
        let mut octets = sixteen(ours);
        octets.extend([0xc0, 0, 0, 1, family(ours) as u8, 0, 50, 0]);
        octets.extend([0x01, 0, 0, 0x52]);
        octets.extend(sixteen(before));
        octets.extend(sixteen(now));
        octets.extend([0x11, 0x94, 0x4e, 0x21]);
        assert_eq!(octets.len(), 64, "xfrm_user_mapping");
        let mapping = parse_mapping(&octets).expect("an event");
        let wanted = Mapping {
            reqid: 0x5200_0001,
            spi: 0xc000_0001,
            destination: ours,
            source: (now, 0x4e21).into(),
        };
        assert_eq!(mapping, wanted);
        assert!((0..64).all(|end| parse_mapping(&octets[..end]).is_none()));
    }
}
