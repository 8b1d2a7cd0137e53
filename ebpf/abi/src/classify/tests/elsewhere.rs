//! What is nobody's to judge: packets that are not for us or not IKE, and a gate that nobody stands behind.

use super::*;

#[test]
fn what_is_not_for_us_passes() {
    let around = Around::default();
    let other = Around {
        destination: Address::V4([192, 0, 2, 3]),
        ..around.clone()
    };
    let message = Message::resume(&[0; 64]).octets();
    assert_eq!(
        verdict(&other.ike(&message)),
        Verdict::Pass(Reason::NotLocal)
    );
    let anyone = Told {
        flags: TICKET_KEYS_SET,
        ..Told::default()
    };
    let dropped = Verdict::Drop(Reason::EnvelopeShape);
    assert_eq!(classify(&other.ike(&message), &anyone), dropped);
    let dns = Around {
        port: 53,
        ..around.clone()
    };
    assert_eq!(verdict(&dns.ike(&message)), Verdict::Pass(Reason::NotIke));
    assert_eq!(
        verdict(&around.packet(6, &[0; 20])),
        Verdict::Pass(Reason::NotIke)
    );
    assert_eq!(
        verdict(&around.packet(PROTOCOL_ESP, &[9; 40])),
        Verdict::Pass(Reason::Esp)
    );
}

#[test]
fn port_4500_tells_esp_keepalive_and_ike_apart() {
    for destination in [LOCAL_V4, LOCAL_V6] {
        let around = Around {
            source: destination,
            destination,
            port: PORT_NAT_T,
            ..Around::default()
        };
        let judge = |payload: &[u8]| verdict(&around.datagram(payload));
        assert_eq!(judge(&[1; 40]), Verdict::Pass(Reason::Esp));
        assert_eq!(judge(&[0xff]), Verdict::Drop(Reason::Keepalive));
        assert_eq!(judge(&[0xfe]), Verdict::Drop(Reason::Truncated));
        assert_eq!(judge(&[1; 8]), Verdict::Drop(Reason::Truncated));
        assert_eq!(judge(&[]), Verdict::Drop(Reason::Truncated));
        assert_eq!(judge(&[0; 20]), Verdict::Drop(Reason::Truncated));
    }
    // Short frames are padded on the wire; the padding is not part of the datagram.
    let nat = Around {
        port: PORT_NAT_T,
        ..Around::default()
    };
    let mut padded = nat.datagram(&[0xff]);
    padded.resize(60, 0);
    assert_eq!(verdict(&padded), Verdict::Drop(Reason::Keepalive));
}

#[test]
fn a_gate_without_daemon_first_closes_and_then_sleeps() {
    let frame = Around::default().ike(&genuine().octets());
    let forged = Around::default().ike(&Message::resume(&[0; 64]).octets());
    let after = |silence, frame: &[u8]| {
        classify(
            frame,
            &Told {
                silence,
                ..Told::default()
            },
        )
    };
    assert_eq!(
        after(ALONE_AFTER, &frame),
        Verdict::Pass(Reason::ResumeProven)
    );
    // Nobody is there to say how bad it is; nobody has a reply left to give either.
    assert_eq!(
        after(SILENT_AFTER, &frame),
        Verdict::Drop(Reason::ResumeCookieNeeded)
    );
    assert_eq!(
        after(SILENT_AFTER + 1, &frame),
        Verdict::Drop(Reason::DaemonSilent)
    );
    assert_eq!(
        after(SILENT_AFTER + 1, &forged),
        Verdict::Drop(Reason::DaemonSilent)
    );
    assert_eq!(
        after(ASLEEP_AFTER + 1, &frame),
        Verdict::Pass(Reason::GateAsleep)
    );
    assert_eq!(
        after(ASLEEP_AFTER + 1, &forged),
        Verdict::Pass(Reason::GateAsleep)
    );
}

#[test]
fn without_any_ticket_key_resumptions_are_left_to_the_daemon() {
    let told = Told {
        flags: CHECK_LOCAL,
        ticket_keys: false,
        ..Told::default()
    };
    let frame = Around::default().ike(&genuine().octets());
    assert_eq!(
        classify(&frame, &told),
        Verdict::Pass(Reason::ResumeUnchecked)
    );
}
