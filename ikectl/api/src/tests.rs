//! The shapes on the wire, which scripts rely on.

use serde_json::{from_str, json, to_value};

use super::*;

#[test]
fn requests_are_method_and_parameters() {
    let up = Request::Up {
        child: None,
        connection: "rw".into(),
        timeout_seconds: None,
    };
    assert_eq!(
        to_value(&up).expect("serialises"),
        json!({"method": "up", "parameters": {"connection": "rw"}})
    );
    assert_eq!(
        to_value(Request::Status).expect("serialises"),
        json!({"method": "status"})
    );
    for (text, request) in [
        (r#"{"method":"status"}"#, Request::Status),
        (
            r#"{"method":"shutdown","parameters":{}}"#,
            Request::Shutdown { delete: false },
        ),
        (
            r#"{"parameters":{"id":3,"new":1},"method":"sa_show","more":true}"#,
            Request::SaShow { id: 3 },
        ),
    ] {
        assert_eq!(from_str::<Request>(text).expect(text), request);
    }
    assert!(from_str::<Request>(r#"{"method":"reboot"}"#).is_err());
}

#[test]
fn a_reply_has_its_outcome_beside_the_stamp() {
    let reply = Reply {
        rekindle: Stamp {
            version: "0.1.0".into(),
            schema: SCHEMA,
            time: "t".into(),
        },
        outcome: Outcome::Done(Done {
            connection: Some("rw".into()),
            ..Done::default()
        }),
    };
    let text = json!({
        "rekindle": {"version": "0.1.0", "schema": 1, "time": "t"},
        "done": {"connection": "rw"},
    });
    assert_eq!(to_value(&reply).expect("serialises"), text);
    assert_eq!(
        from_str::<Reply>(&text.to_string()).expect("reads back"),
        reply
    );
}

#[test]
fn what_a_later_daemon_adds_is_ignored() {
    let text = r#"{"later":1,"rekindle":{"version":"9","schema":1,"time":"t","x":1},
        "error":{"code":"on_fire","message":"m","x":1}}"#;
    let reply: Reply = from_str(text).expect("still readable");
    let Outcome::Error(failure) = reply.outcome else {
        panic!("an error")
    };
    assert_eq!(failure.code, ErrorCode::Unknown);
}
