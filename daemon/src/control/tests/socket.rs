//! What the socket bears: silence behind it, nonsense, crowds, and another daemon's socket in its place.

use super::*;

#[test]
fn an_engine_that_does_not_answer_costs_the_deadline_and_no_more() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        client
            .send(r#"{"method":"up","parameters":{"connection":"rw","timeout_seconds":1}}"#)
            .await;
        let Some(ControlRequest::Up { reply, .. }) = fixture.engine.recv().await else {
            panic!()
        };
        assert_eq!(client.error().await, ErrorCode::Timeout);
        assert!(reply.is_closed(), "the engine sees that nobody waits");

        // Others are served meanwhile, until the queue is full; then they are told so at once.
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let mut client = fixture.client().await;
            client.send(r#"{"method":"status"}"#).await;
            waiting.push(client);
        }
        let Some(ControlRequest::Status { reply }) = fixture.engine.recv().await else {
            panic!()
        };
        reply.send(StatusReport::default()).expect("waits");
        assert!(matches!(waiting[0].outcome().await, Outcome::Status(_)));
    });
}

#[test]
fn nonsense_is_refused_and_the_connection_goes_on() {
    on_one_thread(async {
        let mut fixture = Fixture::start();
        let mut client = fixture.client().await;
        for line in [
            "",
            "{",
            "[]",
            "{\"method\":\"reboot\"}",
            "{\"method\":\"up\"}",
            "\u{0}",
        ] {
            client.send(line).await;
            assert_eq!(client.error().await, ErrorCode::BadRequest, "{line:?}");
        }
        client.send(r#"{"method":"status"}"#).await;
        assert!(fixture.engine.recv().await.is_some());
    });
}

#[test]
fn a_line_without_end_is_cut_off() {
    on_one_thread(async {
        let fixture = Fixture::start();
        let mut client = fixture.client().await;
        client.send(&"x".repeat(MAX_REQUEST)).await;
        assert_eq!(client.error().await, ErrorCode::BadRequest);
        assert!(client.reply().await.is_none(), "closed");
    });
}

#[test]
fn one_client_too_many_is_turned_away() {
    on_one_thread(async {
        let fixture = Fixture::start();
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            let mut client = fixture.client().await;
            client.send("?").await;
            assert_eq!(client.error().await, ErrorCode::BadRequest);
            clients.push(client);
        }
        assert_eq!(fixture.client().await.error().await, ErrorCode::Busy);
        clients.pop();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut client = fixture.client().await;
        client.send("?").await;
        assert_eq!(client.error().await, ErrorCode::BadRequest);
    });
}

#[test]
fn a_live_socket_is_left_alone_and_a_dead_one_replaced() {
    on_one_thread(async {
        let folder = TempDir::new().expect("temporary folder");
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "a dead daemon leaves its file");
        let bound = bind(&path).expect("replaces it");
        let mode = std::fs::metadata(&path)
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(matches!(bind(&path), Err(ControlError::InUse(_))));
        drop(bound);
        assert!(!path.exists());
        std::fs::write(&path, "precious").expect("writes");
        assert!(matches!(bind(&path), Err(ControlError::NotASocket(_))));
    });
}

#[test]
fn what_is_in_the_way_is_left_and_the_socket_comes_when_it_has_gone() {
    on_one_thread(async {
        let folder = TempDir::new().expect("temporary folder");
        let path = folder.path().join("control.sock");
        std::fs::write(&path, "precious").expect("writes");
        let (sender, _engine) = mpsc::channel(QUEUE);
        let listening = path.clone();
        tokio::spawn(async move { listen(&listening, sender).await });
        tokio::task::yield_now().await;
        assert_eq!(std::fs::read(&path).expect("is left"), b"precious");
        std::fs::remove_file(&path).expect("ours");
        while UnixStream::connect(&path).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
