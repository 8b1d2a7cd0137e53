//! Frames without an Ethernet header, and PPPoE that is no session.

use super::*;

/// Ethernet's octets, which these frames do without.
const ETHERNET_LEN: usize = 14;

fn bare(frame: &[u8], told: &Told) -> Verdict {
    super::super::classify(&Bare(&frame[ETHERNET_LEN..]), told).verdict
}

fn families() -> [Around; 2] {
    let v6 = Around {
        source: LOCAL_V6,
        destination: LOCAL_V6,
        ..Around::default()
    };
    [Around::default(), v6]
}

#[test]
fn a_frame_that_begins_with_ip_is_judged_like_one_behind_ethernet() {
    let told = Told::default();
    for around in families() {
        for message in [genuine(), Message::sa_init()] {
            let frame = around.ike(&message.octets());
            assert_eq!(bare(&frame, &told), classify(&frame, &told));
            for len in ETHERNET_LEN..frame.len() {
                assert_eq!(bare(&frame[..len], &told), classify(&frame[..len], &told));
            }
        }
        let esp = around.packet(PROTOCOL_ESP, &[9; 40]);
        assert_eq!(bare(&esp, &told), Verdict::Pass(Reason::Esp));
    }
    let other = Bare(&[0x15; 60][..]);
    let verdict = super::super::classify(&other, &told).verdict;
    assert_eq!(verdict, Verdict::Pass(Reason::NotIke));
}

#[test]
fn what_would_be_answered_there_is_left_to_the_daemon_within_the_budget() {
    let client = Around {
        source: Address::V4([198, 51, 100, 7]),
        ..Around::default()
    };
    let forged = Message::resume(&ticket(KEY_ID, 5, &SPI_KEY, 256));
    for (message, left, over) in [
        (forged, Reason::LeftToDaemon, Reason::TagWrong),
        (genuine(), Reason::LeftToDaemon, Reason::ResumeCookieNeeded),
        (Message::sa_init(), Reason::SaInit, Reason::CookieNeeded),
    ] {
        let told = Told {
            level: Level::Attack,
            replies: Cell::new(1),
            ..Told::default()
        };
        let frame = client.ike(&message.octets());
        assert_eq!(bare(&frame, &told), Verdict::Pass(left));
        assert_eq!(bare(&frame, &told), Verdict::Drop(over));
    }
}

#[test]
fn pppoe_that_is_no_session_of_ip_is_not_ours() {
    let pppoe = Around {
        pppoe: true,
        ..Around::default()
    };
    let frame = pppoe.ike(&genuine().octets());
    // Version and type, code, protocol.
    for (at, octet) in [(14, 0x21), (15, 0xa7), (20, 0xc0), (21, 0x23)] {
        let mut other = frame.clone();
        other[at] = octet;
        assert_eq!(verdict(&other), Verdict::Pass(Reason::NotIke), "{at}");
    }
    // An IPv6 packet that is announced as IPv4 is none.
    let mut crossed = frame;
    crossed[21] = 0x57;
    assert_ne!(verdict(&crossed), Verdict::Pass(Reason::ResumeProven));
}
