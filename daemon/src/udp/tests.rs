use std::{net::UdpSocket as Peer, thread::sleep};

use super::*;

fn pair(service: Service) -> (UdpSocket, Peer) {
    let listen = Listen {
        address: "127.0.0.1:0".parse().expect("address"),
        service,
    };
    let socket = UdpSocket::open(listen, false).expect("open");
    let peer = Peer::bind("127.0.0.1:0").expect("bind");
    peer.connect(socket.listen().address).expect("connect");
    (socket, peer)
}

fn read(socket: &UdpSocket) -> (Vec<(Path, Vec<u8>)>, Received) {
    // Loopback delivers from a soft interrupt, which a busy machine puts off.
    sleep(Duration::from_millis(100));
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut got = Vec::new();
    let received = socket
        .receive(BATCH, &mut buffer, |path, message| {
            got.push((path, message.to_vec()));
        })
        .expect("receive");
    (got, received)
}

#[test]
fn on_4500_the_marker_comes_off_and_the_rest_is_counted() {
    let (socket, peer) = pair(Service::Natt);
    for datagram in [
        &b"\0\0\0\0hello"[..],
        b"\xff",
        b"\0\0\0\0",
        b"espespesp",
        b"",
    ] {
        peer.send(datagram).expect("send");
    }
    let (got, received) = read(&socket);
    assert_eq!((received.messages, received.drained), (1, true));
    assert_eq!(got[0].1, b"hello");
    assert_eq!(got[0].0.local, socket.listen().address);
    assert_eq!(got[0].0.remote, peer.local_addr().expect("address"));
    let counters = socket.counters();
    assert_eq!((counters.keepalives, counters.not_ike), (1, 3));
}

#[test]
fn on_500_nothing_is_taken_off() {
    let (socket, peer) = pair(Service::Ike);
    peer.send(b"\0\0\0\0hello").expect("send");
    let (got, _) = read(&socket);
    assert_eq!(got[0].1, b"\0\0\0\0hello");
    socket.send(&got[0].0, b"answer");
    let mut answer = [0; 16];
    assert_eq!(peer.recv(&mut answer).expect("answer"), 6);
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let listen = Listen {
        address: "0.0.0.0:0".parse().expect("address"),
        service: Service::Natt,
    };
    let socket = UdpSocket::open(listen, false).expect("open");
    let port = socket.listen().address.port();
    let peer = Peer::bind("127.0.0.1:0").expect("bind");
    peer.send_to(b"\0\0\0\0x", ("127.7.7.7", port))
        .expect("send");
    let (got, _) = read(&socket);
    assert_eq!(got[0].0.local.to_string(), format!("127.7.7.7:{port}"));
    assert!(socket.serves(&got[0].0.local));
    socket.send(&got[0].0, b"y");
    let mut answer = [0; 16];
    let (length, from) = peer.recv_from(&mut answer).expect("answer");
    assert_eq!(
        (&answer[..length], from),
        (&b"\0\0\0\0y"[..], got[0].0.local)
    );
}

#[test]
fn one_turn_is_bounded() {
    let (socket, peer) = pair(Service::Ike);
    for _ in 0..=BATCH {
        peer.send(b"x").expect("send");
    }
    let received = read(&socket).1;
    assert_eq!((received.messages, received.drained), (BATCH, false));
    let received = read(&socket).1;
    assert_eq!((received.messages, received.drained), (1, true));
}

#[test]
fn what_waited_too_long_is_dropped() {
    let (socket, peer) = pair(Service::Ike);
    peer.send(b"old").expect("send");
    sleep(STALE + Duration::from_millis(200));
    peer.send(b"new").expect("send");
    let (got, _) = read(&socket);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].1, b"new");
    assert_eq!(socket.counters().stale, 1);
}
