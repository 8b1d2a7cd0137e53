//! The tool as scripts see it: exit status, one line on stderr, JSON on stdout. A thread stands in
//! for the daemon.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const HEAD: &str = r#""rekindle":{"version":"0.1.0","schema":1,"time":"2026-11-21T17:02:11Z"}"#;

fn ikectl(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ikectl"))
        .args(args)
        .env("IKECTL_SOCKET", socket)
        .output()
        .expect("runs")
}

/// Answers one client with one line and gives the request back.
fn daemon(socket: &Path, answer: String) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).expect("binds");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = String::new();
        BufReader::new(&stream)
            .read_line(&mut request)
            .expect("a line");
        stream.write_all(answer.as_bytes()).expect("writes");
        request
    })
}

fn with_daemon(outcome: &str, args: &[&str]) -> (String, Output) {
    let folder = TempDir::new().expect("temporary folder");
    let socket = folder.path().join("s");
    let daemon = daemon(&socket, format!("{{{HEAD},{outcome}}}\n"));
    let output = ikectl(&socket, args);
    (daemon.join().expect("no panic"), output)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_kind_of_failure_has_its_status() {
    for (code, status) in [
        ("failed", 1),
        ("busy", 1),
        ("not_found", 3),
        ("timeout", 5),
        ("a_later_one", 1),
    ] {
        let error = format!(
            r#""error":{{"code":"{code}","message":"connection rw is\nnot up","cure":"try"}}"#
        );
        let (_, output) = with_daemon(&error, &["suspend", "rw"]);
        assert_eq!(output.status.code(), Some(status), "{code}");
        assert_eq!(stderr(&output), "ikectl: connection rw is?not up; try\n");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn requests_and_replies_pass_through() {
    let done = r#""done":{"connection":"rw","id":4,"resumed":true,"setup_seconds":0.004}"#;
    let (request, output) = with_daemon(done, &["up", "rw", "--timeout", "9"]);
    assert_eq!(
        request,
        "{\"method\":\"up\",\"parameters\":{\"connection\":\"rw\",\"timeout_seconds\":9}}\n"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"rw[4]: resumed, 4.0 ms\n");

    let nothing = r#""done":{}"#;
    for (args, sent) in [
        (
            &["rekey", "rw"][..],
            r#"{"method":"rekey","parameters":{"connection":"rw"}}"#,
        ),
        (
            &["rekey", "rw", "--child"],
            r#"{"method":"rekey","parameters":{"connection":"rw","child":true}}"#,
        ),
        (
            &["sa", "show", "7", "--origin"],
            r#"{"method":"sa_origin","parameters":{"id":7}}"#,
        ),
        (&["ticket"], r#"{"method":"ticket_list"}"#),
        (&["ticket", "rotate"], r#"{"method":"ticket_rotate"}"#),
        (
            &["redirect", "gw2.example", "rw"],
            r#"{"method":"redirect","parameters":{"connection":"rw","all":false,"gateway":"gw2.example"}}"#,
        ),
        (
            &["redirect", "192.0.2.2", "--all"],
            r#"{"method":"redirect","parameters":{"all":true,"gateway":"192.0.2.2"}}"#,
        ),
        (
            &["ticket", "revoke", "a@b"],
            r#"{"method":"ticket_revoke","parameters":{"peer":"a@b","all":false}}"#,
        ),
        (
            &["ticket", "revoke", "--all"],
            r#"{"method":"ticket_revoke","parameters":{"all":true}}"#,
        ),
    ] {
        let (request, output) = with_daemon(nothing, args);
        assert_eq!(request, format!("{sent}\n"));
        assert_eq!(output.status.code(), Some(0));
    }

    let (_, output) = with_daemon(r#""ike_sas":[],"later":[1]"#, &["sa", "-j"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text, format!("{{{HEAD},\"ike_sas\":[],\"later\":[1]}}\n"));

    let (_, output) = with_daemon(done, &["down", "rw", "-q"]);
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

#[test]
fn no_daemon_is_status_4_and_usage_2() {
    let folder = TempDir::new().expect("temporary folder");
    let output = ikectl(&folder.path().join("s"), &[]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(stderr(&output).lines().count(), 1);
    assert_eq!(ikectl(folder.path(), &["reboot"]).status.code(), Some(2));

    let socket = folder.path().join("t");
    let daemon = daemon(&socket, "rubbish\n".to_owned());
    assert_eq!(ikectl(&socket, &["gate"]).status.code(), Some(1));
    daemon.join().expect("no panic");
}

#[test]
fn a_socket_for_others_is_status_6() {
    let folder = TempDir::new().expect("temporary folder");
    let socket = folder.path().join("s");
    let _listener = UnixListener::bind(&socket).expect("binds");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).expect("mode");
    // Root is let in whatever the mode; then nobody answers, and that is status 5.
    let output = ikectl(&socket, &["up", "rw", "--timeout", "1"]);
    assert!(matches!(output.status.code(), Some(5 | 6)), "{output:?}");
}

#[test]
fn a_silent_daemon_costs_the_deadline_and_no_more() {
    let folder = TempDir::new().expect("temporary folder");
    let socket = folder.path().join("s");
    let _listener = UnixListener::bind(&socket).expect("binds");
    let start = Instant::now();
    let output = ikectl(&socket, &["up", "rw", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_monitor_is_told_in_one_line_and_by_the_status() {
    let status = |attention: &str| {
        format!(
            r#""status":{{"uptime_seconds":9,"pid":8,"connections":1,"ike_sas_established":3,
            "ike_sas_half_open":0,"suspended":1,"child_sas":3,"full_logins":1,"resumed_logins":3,
            "failed_logins":0,"tickets_issued":4,"tickets_refused":0,"gate_mode":"native",
            "attention":[{attention}]}}"#
        )
        .replace('\n', "")
    };
    let error = r#""error":{"code":"busy","message":"too many"}"#;
    for (outcome, line, code) in [
        (status(""), "OK - 3 IKE SAs, 1 suspended, gate native\n", 0),
        (
            status(r#"{"text":"no lanes"},{"text":"clock"}"#),
            "WARNING - no lanes; clock\n",
            1,
        ),
        (error.to_owned(), "UNKNOWN - too many\n", 3),
    ] {
        let (_, output) = with_daemon(&outcome, &["status", "--check"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), line);
        assert_eq!(output.status.code(), Some(code), "{line}");
    }
    let nowhere = TempDir::new().expect("temporary folder");
    let output = ikectl(&nowhere.path().join("s"), &["status", "--check"]);
    assert!(output.stdout.starts_with(b"CRITICAL - "));
    assert_eq!(output.status.code(), Some(2));
}
