//! Whole round trips over a real socket, with a double in the engine's place.

use std::{future::Future, os::unix::fs::PermissionsExt as _, time::Duration};

use ike::{
    lease::Leased,
    ticket::TicketName,
    view::{
        ChildView, Closed, HeldTicket, Plans, SaState, SaView, Side,
        origin::{Item, SaOrigin, Source},
    },
    wire::{id::Identity, ts::TrafficSelector},
};
use ikectl_api::{ErrorCode, MAX_REQUEST, Outcome, Reply};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};

use super::{
    server::{ControlError, bind, serve},
    *,
};

mod gate;
mod socket;

/// Runs a story on one thread, as the engine does, with a bound on its time.
fn on_one_thread(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        timeout(Duration::from_mins(1), story)
            .await
            .expect("the story ends");
    });
}

struct Fixture {
    folder: TempDir,
    engine: mpsc::Receiver<ControlRequest>,
}

impl Fixture {
    fn start() -> Self {
        let folder = TempDir::new().expect("temporary folder");
        let (sender, engine) = mpsc::channel(QUEUE);
        let bound = bind(&folder.path().join("control.sock")).expect("binds");
        tokio::spawn(serve(bound, sender));
        Self { folder, engine }
    }

    async fn client(&self) -> Client {
        let stream = UnixStream::connect(self.folder.path().join("control.sock")).await;
        Client(BufReader::new(stream.expect("connects")))
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    async fn send(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).await.expect("writes");
        self.0.write_all(b"\n").await.expect("writes");
    }

    /// `None` once the daemon has closed the connection.
    async fn reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a reply")),
        }
    }

    async fn outcome(&mut self) -> Outcome {
        self.reply().await.expect("a reply").outcome
    }

    async fn error(&mut self) -> ErrorCode {
        match self.outcome().await {
            Outcome::Error(failure) => failure.code,
            other => panic!("an error, not {other:?}"),
        }
    }
}

fn view() -> SaView {
    let selector = |text| vec![TrafficSelector::from_text(text).expect("a network")];
    SaView {
        id: 17,
        connection: Some("rw".into()),
        state: SaState::Established,
        initiator: false,
        spis: ([1; 8], [0xab; 8]),
        path: Some(ike::io::Path {
            local: "192.0.2.1:4500".parse().expect("address"),
            remote: "[2001:db8::7]:4500".parse().expect("address"),
        }),
        local_id: Identity::from_text("gw.example"),
        remote_id: Identity::from_text("alice@example.net"),
        suite: Some("aes128gcm16-prfsha256-x25519".into()),
        nat: true,
        resumed: true,
        resume_count: 2,
        age: Some(Duration::from_mins(123)),
        full_auth_age: None,
        ticket_left: Some(Duration::from_hours(9)),
        held_in: None,
        ticket_name: Some(TicketName {
            key_id: 7,
            index: 4,
        }),
        fresh_keys: Some(false),
        client: Side::Remote,
        leased: Leased {
            addresses: vec!["10.20.3.4".parse().expect("address")],
            ..Leased::default()
        },
        plans: Plans {
            rekey: Some(Duration::from_hours(3)),
            liveness: Some(Duration::from_secs(21)),
            end: Some(Duration::from_hours(21)),
            reauth: None,
        },
        children: vec![ChildView {
            name: "net".into(),
            owner: "rw/net/alice".into(),
            spi_in: 0xc4be_31f0,
            spi_out: 0x01f2_c97a,
            mode: ike::kernel::Mode::Tunnel,
            udp_encap: true,
            proposal: "aes128gcm16".into(),
            local_ts: selector("0.0.0.0/0"),
            remote_ts: selector("10.20.3.4"),
            rekey_in: Some(Duration::from_mins(50)),
            ends_in: Duration::from_hours(23),
        }],
    }
}

#[test]
fn an_sa_is_shown_with_the_counters_of_the_kernel() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        client
            .send(r#"{"method":"sa_show","parameters":{"id":17}}"#)
            .await;
        let Some(ControlRequest::Sas {
            id: Some(17),
            reply,
        }) = fixture.engine.recv().await
        else {
            panic!("the question")
        };
        let traffic = Traffic {
            in_bytes: 9,
            in_packets: 1,
            out_bytes: 8,
            out_packets: 2,
        };
        let report = SaReport {
            view: view(),
            traffic: vec![Some(traffic)],
        };
        reply.send(vec![report]).expect("the client waits");
        let reply = client.reply().await.expect("a reply");
        assert_eq!(reply.rekindle.schema, 1);
        let Outcome::IkeSas(sas) = reply.outcome else {
            panic!("SAs")
        };
        let json = serde_json::to_value(&sas[0]).expect("serialises");
        assert_eq!(json["spi_r"], "abababababababab");
        assert_eq!(json["remote"]["addr"], "2001:db8::7");
        assert_eq!(json["children"][0]["spi_out"], "01f2c97a");
        assert_eq!(json["children"][0]["in_bytes"], 9);
        assert_eq!(json["children"][0]["remote_ts"][0], "10.20.3.4/32");
        let ticket = serde_json::json!({"key_id": 7, "index": 4, "expires_in_seconds": 32_400});
        assert_eq!(json["ticket"], ticket);
        assert_eq!(json["pfs"], "pending");
        assert!(
            json.get("full_auth_age_seconds").is_none(),
            "unknown is absent"
        );
    });
}

#[test]
fn every_command_reaches_the_engine_and_its_answer_the_client() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;

        client.send(r#"{"method":"status"}"#).await;
        let Some(ControlRequest::Status { reply }) = fixture.engine.recv().await else {
            panic!()
        };
        reply
            .send(StatusReport {
                established: 3,
                counters: vec![("bad_header", 2)],
                ..StatusReport::default()
            })
            .expect("waits");
        let Outcome::Status(status) = client.outcome().await else {
            panic!("a status")
        };
        assert_eq!(status.ike_sas_established, 3);
        assert_eq!(status.counters["bad_header"], 2);

        client
            .send(r#"{"method":"up","parameters":{"connection":"rw"}}"#)
            .await;
        let Some(ControlRequest::Up { connection, reply }) = fixture.engine.recv().await else {
            panic!()
        };
        assert_eq!(&*connection, "rw");
        let took = Some(Duration::from_millis(250));
        reply
            .send(Ok(UpDone {
                sa: 4,
                resumed: true,
                took,
            }))
            .expect("waits");
        let Outcome::Done(done) = client.outcome().await else {
            panic!("done")
        };
        assert_eq!(
            (done.id, done.resumed, done.setup_seconds),
            (Some(4), Some(true), Some(0.25))
        );

        client
            .send(r#"{"method":"up","parameters":{"connection":"rw"}}"#)
            .await;
        let Some(ControlRequest::Up { reply, .. }) = fixture.engine.recv().await else {
            panic!()
        };
        reply
            .send(Err(CommandError::Ended(Closed::Timeout)))
            .expect("waits");
        assert_eq!(client.error().await, ErrorCode::Failed);

        client
            .send(r#"{"method":"down","parameters":{"connection":"nemo"}}"#)
            .await;
        let Some(ControlRequest::Down { reply, .. }) = fixture.engine.recv().await else {
            panic!()
        };
        reply
            .send(Err(CommandError::UnknownConnection))
            .expect("waits");
        assert_eq!(client.error().await, ErrorCode::NotFound);

        client
            .send(r#"{"method":"suspend","parameters":{"connection":"rw"}}"#)
            .await;
        let Some(ControlRequest::Suspend { reply, .. }) = fixture.engine.recv().await else {
            panic!()
        };
        reply.send(Ok(())).expect("waits");
        assert!(matches!(client.outcome().await, Outcome::Done(_)));

        client
            .send(r#"{"method":"sa_show","parameters":{"id":1}}"#)
            .await;
        let Some(ControlRequest::Sas { reply, .. }) = fixture.engine.recv().await else {
            panic!()
        };
        reply.send(Vec::new()).expect("waits");
        assert_eq!(client.error().await, ErrorCode::NotFound);

        client
            .send(r#"{"method":"shutdown","parameters":{"delete":true}}"#)
            .await;
        let Some(ControlRequest::Shutdown {
            delete: true,
            reply,
        }) = fixture.engine.recv().await
        else {
            panic!()
        };
        drop(reply);
        assert_eq!(
            client.error().await,
            ErrorCode::Failed,
            "an engine that dies is told"
        );
    });
}

#[test]
fn a_rekey_is_asked_for_and_answered() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        for (answer, sa) in [
            (Ok(RekeyDone { old: 4, sa: 5 }), Some(5)),
            (Err(CommandError::Ended(Closed::Crashed)), None),
            (Err(CommandError::NotUp), None),
        ] {
            client
                .send(r#"{"method":"rekey","parameters":{"connection":"rw"}}"#)
                .await;
            let Some(ControlRequest::Rekey { connection, reply }) = fixture.engine.recv().await
            else {
                panic!("the question")
            };
            assert_eq!(&*connection, "rw");
            reply.send(answer).expect("waits");
            match client.outcome().await {
                Outcome::Done(done) => {
                    assert_eq!((done.id, done.old_id), (sa, Some(4)));
                }
                Outcome::Error(failure) => {
                    assert!(sa.is_none());
                    assert_eq!(failure.code, ErrorCode::Failed);
                    let whys = ["ended: peer_crashed", "is not up"];
                    assert!(whys.iter().any(|why| failure.message.ends_with(why)));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn clients_are_sent_to_another_gateway_or_the_request_is_bad() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        for bad in [
            r#"{"gateway":"gw2.example"}"#,
            r#"{"gateway":"gw2.example","connection":"rw","all":true}"#,
            r#"{"gateway":"127.0.0.1","all":true}"#,
        ] {
            let request = format!(r#"{{"method":"redirect","parameters":{bad}}}"#);
            client.send(&request).await;
            assert_eq!(client.error().await, ErrorCode::BadRequest, "{bad}");
        }
        client
            .send(
                r#"{"method":"redirect","parameters":{"gateway":"gw2.example","connection":"rw"}}"#,
            )
            .await;
        let Some(ControlRequest::Redirect {
            connection,
            gateway,
            reply,
        }) = fixture.engine.recv().await
        else {
            panic!("the question")
        };
        assert_eq!(connection.as_deref(), Some("rw"));
        assert_eq!(gateway.to_string(), "gw2.example");
        let told = ike::Told { told: 3, unable: 1 };
        reply.send(Ok(told)).expect("waits");
        let Outcome::Done(done) = client.outcome().await else {
            panic!("done")
        };
        assert_eq!((done.told, done.unable), (Some(3), Some(1)));
    });
}

#[test]
fn the_origin_of_an_sa_is_shown_or_there_is_none() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        let item = Item {
            row: "T11",
            item: "ike_keys",
            value: "v".into(),
            from: &[Source::Ticket, Source::Exchange],
        };
        let origin = SaOrigin {
            id: 17,
            connection: "rw".into(),
            ticket_age: Some(Duration::from_mins(2)),
            items: vec![item],
        };
        for answer in [Some(origin), None] {
            client
                .send(r#"{"method":"sa_origin","parameters":{"id":17}}"#)
                .await;
            let Some(ControlRequest::Origin { id: 17, reply }) = fixture.engine.recv().await else {
                panic!("the question")
            };
            reply.send(answer).expect("waits");
        }
        let Outcome::SaOrigin(shown) = client.outcome().await else {
            panic!("an origin")
        };
        let json = serde_json::to_value(&shown).expect("serialises");
        let expected = serde_json::json!({"id": 17, "connection": "rw", "ticket_age_seconds": 120,
            "items": [{"row": "T11", "item": "ike_keys", "value": "v",
                "from": ["ticket", "exchange"]}]});
        assert_eq!(json, expected);
        assert_eq!(client.error().await, ErrorCode::NotFound);
    });
}

#[test]
fn tickets_are_listed_rotated_and_revoked() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        client.send(r#"{"method":"ticket_list"}"#).await;
        let Some(ControlRequest::Tickets { reply }) = fixture.engine.recv().await else {
            panic!("the question")
        };
        let report = TicketReport {
            epochs: vec![EpochReport {
                key_id: 7,
                age: Duration::from_hours(6),
                issues_for: None,
                accepted_for: Duration::from_hours(30),
            }],
            issued: 3,
            honoured: 2,
            refused: vec![("used", 1)],
            outstanding: 1,
            held: vec![HeldTicket {
                connection: "home".into(),
                suspended: true,
                gateway: Identity::from_text("gw.example").expect("an identity"),
                path: view().path.expect("a path"),
                octets: 256,
                age: Duration::from_mins(1),
                left: None,
                resume_count: 0,
            }],
            revocations: vec![RevocationReport {
                peer: "a@b".to_owned(),
                age: Duration::from_mins(2),
                refused_for: Duration::from_hours(1),
            }],
        };
        reply.send(report).expect("waits");
        let Outcome::Tickets(shown) = client.outcome().await else {
            panic!("tickets")
        };
        let json = serde_json::to_value(&shown).expect("serialises");
        let expected = serde_json::json!({
            "epochs": [{"key_id": 7, "age_seconds": 21_600, "accepted_for_seconds": 108_000}],
            "issued": 3, "honoured": 2, "refused": [{"reason": "used", "tickets": 1}],
            "outstanding": 1,
            "held": [{"connection": "home", "suspended": true, "gateway_id": "gw.example",
                "gateway_addr": "2001:db8::7", "gateway_port": 4500, "ticket_bytes": 256,
                "age_seconds": 60, "resume_count": 0}],
            "revocations": [{"peer": "a@b", "age_seconds": 120, "refused_for_seconds": 3600}],
        });
        assert_eq!(json, expected);

        for (line, alone) in [
            (r#"{"method":"ticket_rotate"}"#, false),
            (
                r#"{"method":"ticket_revoke","parameters":{"all":true}}"#,
                true,
            ),
        ] {
            for answer in [Ok(8), Err("disk\nfull".to_owned())] {
                client.send(line).await;
                let Some(ControlRequest::NewEpoch {
                    alone: asked,
                    reply,
                }) = fixture.engine.recv().await
                else {
                    panic!("the question")
                };
                assert_eq!(asked, alone);
                reply.send(answer).expect("waits");
            }
            let Outcome::Done(done) = client.outcome().await else {
                panic!("done")
            };
            assert_eq!(done.key_id, Some(8));
            assert_eq!(client.error().await, ErrorCode::Failed);
        }

        let done = RevokeDone {
            tickets: 2,
            refused_for: Duration::from_hours(1),
        };
        for answer in [Ok(done), Err("disk\nfull".to_owned())] {
            client
                .send(r#"{"method":"ticket_revoke","parameters":{"peer":"a@b"}}"#)
                .await;
            let Some(ControlRequest::Revoke { peer, reply }) = fixture.engine.recv().await else {
                panic!("the question")
            };
            assert_eq!(peer, "a@b");
            reply.send(answer).expect("waits");
        }
        let Outcome::Done(done) = client.outcome().await else {
            panic!("done")
        };
        assert_eq!(
            (done.revoked, done.refused_for_seconds),
            (Some(2), Some(3600))
        );
        assert_eq!(client.error().await, ErrorCode::Failed);

        for parameters in [r"{}", r#"{"peer":"a","all":true}"#] {
            let line = format!(r#"{{"method":"ticket_revoke","parameters":{parameters}}}"#);
            client.send(&line).await;
            assert_eq!(client.error().await, ErrorCode::BadRequest);
        }
    });
}
