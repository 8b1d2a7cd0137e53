//! What is asked of the gate on the socket, and what comes back.

use gate_abi::networks::Rule;

use super::*;
use crate::keeper::{GateCommand, GateDrop, GateRefused};

#[test]
fn the_gate_is_shown_with_what_it_dropped() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        client.send(r#"{"method":"gate"}"#).await;
        let Some(ControlRequest::Gate { reply }) = fixture.engine.recv().await else {
            panic!()
        };
        let verdicts = vec![GateVerdict {
            verdict: "drop",
            reason: "ticket_forged",
            packets: 100_000,
            per_second: 7,
        }];
        let from = "192.0.2.9:4321".parse().expect("an address");
        let to = "[2001:db8::2]:0".parse().expect("an address");
        let sample = |ends| GateDrop {
            age: Duration::from_millis(2700),
            reason: "tag_wrong".into(),
            interface: "wan".into(),
            ends,
            octets: 434,
        };
        let dropped = vec![sample(Some((from, to))), sample(None)];
        reply
            .send(GateReport {
                mode: "native",
                verdicts,
                dropped,
                ..GateReport::default()
            })
            .expect("waits");
        let Outcome::Gate(gate) = client.outcome().await else {
            panic!("the gate")
        };
        assert_eq!(gate.counters[0].packets, 100_000);
        let [read, unread] = gate.dropped.as_slice() else {
            panic!("{:?}", gate.dropped)
        };
        assert_eq!((read.age_seconds, read.frame_bytes), (2, 434));
        assert_eq!(read.source.as_deref(), Some("192.0.2.9:4321"));
        assert_eq!(read.destination.as_deref(), Some("2001:db8::2"));
        assert_eq!((&unread.source, &unread.destination), (&None, &None));
    });
}

#[test]
fn networks_are_denied_and_allowed_or_the_request_is_bad() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        let deny = r#"{"method":"gate_deny","parameters":{"network":"192.0.2.0/24"}}"#;
        client.send(deny).await;
        let Some(ControlRequest::GateCommand { command, reply }) = fixture.engine.recv().await
        else {
            panic!("a command")
        };
        let GateCommand::List {
            rule: Rule::Deny,
            lasting,
            ..
        } = command
        else {
            panic!("{command:?}")
        };
        assert_eq!(lasting.as_secs(), ikectl_api::DENY_SECONDS);
        reply.send(Ok(())).expect("waits");
        let Outcome::Done(done) = client.outcome().await else {
            panic!("done")
        };
        assert_eq!(done.network.as_deref(), Some("192.0.2.0/24"));
        for wrong in [
            r#"{"network":"192.0.2.1/24"}"#,
            r#"{"network":"::/0","for_seconds":0}"#,
            r#"{"network":"::/0","for_seconds":2592001}"#,
        ] {
            let request = format!(r#"{{"method":"gate_deny","parameters":{wrong}}}"#);
            client.send(&request).await;
            assert_eq!(client.error().await, ErrorCode::BadRequest, "{wrong}");
        }
        for (method, listed) in [
            ("flood_allow", Some(Duration::from_mins(10))),
            ("flood_unallow", None),
        ] {
            let network = r#"{"network":"2001:db8::/32"}"#;
            client
                .send(&format!(
                    r#"{{"method":"{method}","parameters":{network}}}"#
                ))
                .await;
            let asked = fixture.engine.recv().await;
            let Some(ControlRequest::GateCommand { command, reply }) = asked else {
                panic!("a command")
            };
            let lasting = match command {
                GateCommand::List {
                    rule: Rule::Allow,
                    lasting,
                    ..
                } => Some(lasting),
                GateCommand::Unlist {
                    rule: Rule::Allow, ..
                } => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(lasting, listed);
            reply.send(Ok(())).expect("waits");
            let Outcome::Done(done) = client.outcome().await else {
                panic!("done")
            };
            let seconds = listed.map_or(0, |lasting| lasting.as_secs());
            assert_eq!(done.allowed_for_seconds, Some(seconds));
            assert_eq!(done.denied_for_seconds, None);
        }
        client.send(r#"{"method":"gate_detach"}"#).await;
        let Some(ControlRequest::GateCommand { command, reply }) = fixture.engine.recv().await
        else {
            panic!("a command")
        };
        assert_eq!(command, GateCommand::Detach);
        reply.send(Err(GateRefused::SwitchedOff)).expect("waits");
        assert_eq!(client.error().await, ErrorCode::Failed);
    });
}
