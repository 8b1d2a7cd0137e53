//! Round trips through the real pair.

use std::os::fd::AsFd;

use gate_abi::networks::{Prefix, Rule};
use ike::kernel::{CopyDscp, Mark, Mode, Offload, Volume, Ways};

use super::*;
use crate::gate::FloodMode;
use crate::keeper::channel::{Channel, ChannelError};
use crate::tickets::EpochTimes;

fn pair() -> (Channel, Channel) {
    let (keeper, engine) = Channel::pair().expect("pair");
    (keeper, Channel::new(engine))
}

/// Nothing in it is what it usually is, or the same both ways.
const CARRIAGE: Carriage = Carriage {
    mode: Mode::Transport,
    if_id: Ways {
        inbound: u32::MAX,
        outbound: 7,
    },
    mark: Ways {
        inbound: Mark {
            value: u32::MAX,
            mask: u32::MAX - 1,
        },
        outbound: Mark { value: 1, mask: 2 },
    },
    set_mark: Ways {
        inbound: Mark { value: 3, mask: 4 },
        outbound: Mark {
            value: u32::MAX - 2,
            mask: u32::MAX - 3,
        },
    },
    copy_df: false,
    copy_ecn: false,
    copy_dscp: CopyDscp::In,
    replay_window: 4096,
    mss: u16::MAX,
    source_route: false,
    offload: Offload::Packet,
    bytes: Volume {
        rekey: u64::MAX - 1,
        life: u64::MAX,
    },
    packets: Volume {
        rekey: u64::MAX - 3,
        life: u64::MAX - 2,
    },
};

fn install() -> KernelOp {
    let address = |text: &str| text.parse().expect("address");
    KernelOp::Install(Box::new(ChildInstall {
        owner: Owner(Arc::from("office/net/carol")),
        path: Path {
            local: address("192.0.2.1:4500"),
            remote: address("[2001:db8::1]:500"),
        },
        udp_encap: true,
        carriage: CARRIAGE,
        cipher: EspCipher::ChaCha20Poly1305,
        inbound: EspKey {
            spi: 1,
            key: Secret::new((0..36).collect()),
        },
        outbound: EspKey {
            spi: u32::MAX,
            key: Secret::new(vec![7; 36]),
        },
        esn: true,
        local_ts: vec![TrafficSelector::from_text("10.0.0.0/8").expect("network")],
        remote_ts: vec![TrafficSelector::from_text("::/0").expect("network"); 16],
        leased: vec![[255; 4].into(), [255; 16].into()],
        hard_lifetime: Duration::from_hours(1),
    }))
}

#[test]
fn every_kernel_operation_survives_the_pair() {
    let (mut keeper, mut engine) = pair();
    let owner = Owner(Arc::from("a"));
    let ts = vec![TrafficSelector::from_text("192.0.2.0/24").expect("network")];
    let KernelOp::Install(child) = install() else {
        panic!("it is one");
    };
    let operations = [
        install(),
        KernelOp::Lead {
            owner: owner.clone(),
            path: child.path,
            outbound: 7,
            carriage: CARRIAGE,
            local_ts: ts.clone(),
            remote_ts: ts.clone(),
        },
        KernelOp::Add(child),
        KernelOp::Remove {
            owner: owner.clone(),
            inbound: 1,
            outbound: 2,
        },
        KernelOp::Trap {
            owner: owner.clone(),
            carriage: CARRIAGE,
            ends: ([0; 4].into(), [255; 4].into()),
            local_ts: ts.clone(),
            remote_ts: ts.clone(),
        },
        KernelOp::Block {
            owner: owner.clone(),
            carriage: CARRIAGE,
            peer: Some([255; 16].into()),
            local_ts: ts.clone(),
            remote_ts: ts,
        },
        KernelOp::Release { owner },
    ];
    let sent = format!("{operations:?}");
    let numbered = (9..).zip(operations);
    let numbered = numbered.map(|(op, what)| Operation {
        worker: 3,
        op,
        what,
    });
    let operations = numbered.collect();
    let request = Request::Kernel(operations);
    engine
        .send(&ToKeeper { id: 5, request }, &[])
        .expect("send");
    let (message, _) = keeper
        .receive::<ToKeeper>()
        .expect("receive")
        .expect("a message");
    assert_eq!(message.id, 5);
    let Request::Kernel(operations) = message.request else {
        panic!("another request");
    };
    let (numbers, operations): (Vec<_>, Vec<_>) = operations
        .into_iter()
        .map(|operation| (operation.op, operation.what))
        .unzip();
    assert!(numbers.into_iter().eq(9..16));
    assert_eq!(format!("{operations:?}"), sent);
    let (KernelOp::Install(got), KernelOp::Install(sent)) = (&operations[0], install()) else {
        panic!("another operation");
    };
    assert_eq!(got.inbound.key, sent.inbound.key);
    assert_eq!(got.outbound.key, sent.outbound.key);
}

#[test]
fn a_batch_of_any_operations_fits_one_message() {
    let (mut keeper, mut engine) = pair();
    let longest = || {
        let KernelOp::Install(mut child) = install() else {
            panic!("another operation");
        };
        child.owner = Owner(Arc::from("o".repeat(700)));
        child.local_ts = vec![TrafficSelector::from_text("ffff::/16").expect("network"); 16];
        child.remote_ts.clone_from(&child.local_ts);
        Operation {
            worker: u8::MAX,
            op: u64::MAX,
            what: KernelOp::Install(child),
        }
    };
    let shortest = || Operation {
        worker: 0,
        op: 0,
        what: KernelOp::Release {
            owner: Owner(Arc::from("o")),
        },
    };
    for (of, expected) in [(longest as fn() -> _, 25), (shortest, 64)] {
        let mut waiting: Vec<_> = std::iter::repeat_with(of).take(100).collect();
        let size = batch(&waiting);
        assert_eq!(size, expected);
        let request = Request::Kernel(waiting.drain(..size).collect());
        engine
            .send(&ToKeeper { id: 0, request }, &[])
            .expect("it fits");
        assert!(keeper.receive::<ToKeeper>().expect("receive").is_some());
    }
}

#[test]
fn what_an_operator_wants_of_the_gate_survives_the_pair() {
    let (mut keeper, mut engine) = pair();
    let network = Prefix::new([0x20; 16], 128).expect("a host");
    let commands = [
        GateCommand::List {
            rule: Rule::Deny,
            network,
            lasting: Duration::from_mins(10),
        },
        GateCommand::Unlist {
            rule: Rule::Allow,
            network,
        },
        GateCommand::Level {
            mode: FloodMode::Off,
            lasting: Duration::from_mins(10),
        },
        GateCommand::ConfiguredLevel,
        GateCommand::Attach,
        GateCommand::Detach,
    ];
    for command in commands {
        let request = Request::Gate(command);
        engine
            .send(&ToKeeper { id: 7, request }, &[])
            .expect("sent");
        let (message, _) = keeper.receive::<ToKeeper>().expect("read").expect("one");
        assert!(matches!(message.request, Request::Gate(read) if read == command));
    }
    let listed = |left| ListedNetwork { network, left };
    let networks = Networks {
        denied: vec![listed(None), listed(Some(Duration::from_secs(1)))],
        allowed: vec![listed(Some(Duration::from_secs(2)))],
    };
    let refused = GateRefused::NotListed(Rule::Allow);
    for answer in [
        Answer::Networks(networks.clone()),
        Answer::GateDone(Err(refused.clone())),
    ] {
        keeper
            .send(&FromKeeper { id: 0, answer }, &[])
            .expect("sent");
        let (message, _) = engine.receive::<FromKeeper>().expect("read").expect("one");
        match message.answer {
            Answer::Networks(read) => assert_eq!(read, networks),
            Answer::GateDone(done) => assert_eq!(done, Err(refused.clone())),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn descriptors_come_along() {
    let (mut keeper, mut engine) = pair();
    let file = tempfile::tempfile().expect("file");
    file.set_len(77).expect("length");
    let epochs = vec![EpochKey {
        key_id: 3,
        root: Secret::new(vec![1; 32]),
        used_slot: Some(2),
        times: EpochTimes {
            began: 1,
            issue_until: 2,
            accept_until: 3,
        },
    }];
    let answer = Answer::Epochs(epochs);
    keeper
        .send(&FromKeeper { id: 0, answer }, &[file.as_fd(); 2])
        .expect("send");
    let (message, descriptors) = engine
        .receive::<FromKeeper>()
        .expect("receive")
        .expect("a message");
    assert!(matches!(message.answer, Answer::Epochs(epochs) if epochs[0].root.len() == 32));
    assert_eq!(descriptors.len(), 2);
    let file = std::fs::File::from(descriptors.into_iter().next().expect("one"));
    assert_eq!(file.metadata().expect("metadata").len(), 77);
}

#[test]
fn rubbish_and_overlong_messages_are_errors_and_a_closed_end_is_the_end() {
    let (mut keeper, mut engine) = pair();
    let owner = "x".repeat(MAX_MESSAGE);
    let request = Request::Usage { owner };
    let sent = engine.send(&ToKeeper { id: 1, request }, &[]);
    assert!(matches!(sent, Err(ChannelError::Message)));
    engine.send(&(u64::MAX, u64::MAX), &[]).expect("send");
    assert!(matches!(
        keeper.receive::<ToKeeper>(),
        Err(ChannelError::Message)
    ));
    drop(engine);
    assert!(keeper.receive::<ToKeeper>().expect("end").is_none());
}

#[test]
fn nothing_secret_is_printed() {
    let text = format!("{:?} {:?}", install(), SpiKeys([[0x5a; 16]; 2]));
    assert!(!text.contains("7, 7") && !text.contains("90, 90"), "{text}");
}
