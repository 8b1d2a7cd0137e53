//! The keeper as a process, with an engine that only says what it was given: what survives the death
//! of either, and what an orderly stop does. Runs without root; sockets are on loopback.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ike::{
    io::TicketLedger,
    kernel::{KernelOp, OpId, Owner},
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        ptrace,
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, socket},
    },
    unistd::{Pid, getppid},
};
use rekindled::{
    gate::FloodMode,
    keeper::{self, DataplaneKind, EngineStart, KeeperEvent, KeeperOptions},
    tickets::RingOptions,
    udp::{BATCH, Listen, MAX_DATAGRAM, Service},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["keeper-role", folder] => keeper_role(Path::new(folder)),
        ["engine-role", folder] => engine_role(Path::new(folder)),
        _ => run_all(),
    }
}

fn run_all() {
    let cases: [(&str, fn()); 6] = [
        (
            "an_engine_gets_sockets_and_no_privileges",
            an_engine_gets_sockets_and_no_privileges,
        ),
        (
            "a_killed_engine_is_replaced_and_nothing_is_lost",
            a_killed_engine_is_replaced,
        ),
        (
            "a_killed_keeper_takes_its_engine_along_and_comes_back",
            a_killed_keeper_comes_back,
        ),
        ("sigterm_says_goodbye", sigterm_says_goodbye),
        (
            "an_engine_that_will_not_end_is_ended",
            an_engine_that_will_not_end_is_ended,
        ),
        ("one_folder_has_one_keeper", one_folder_has_one_keeper),
    ];
    for (name, case) in cases {
        case();
        println!("{name} ... ok");
    }
}

fn an_engine_gets_sockets_and_no_privileges() {
    let house = House::new();
    let _keeper = house.keeper();
    house.wait_for("ready 1");
    assert_eq!(house.all("workers"), ["2"]);
    assert_eq!(house.all("socket").len(), 2);
    assert_eq!(
        house.all("socket"),
        house.all("outlet"),
        "one reads, both send"
    );
    assert_eq!(house.all("node"), ["9"]);
    assert_eq!(house.all("effective"), ["0000000000000000"]);
    assert_eq!(house.all("permitted"), ["0000000000000000"]);
    assert_eq!(house.all("new_privileges_barred"), ["1"]);
    for done in ["write_at_home", "read_elsewhere", "udp_socket", "thread"] {
        assert_eq!(house.all(done), ["done"], "{done}");
    }
    if house.all("calls") == ["true"] {
        assert_eq!(house.all("filters"), ["1"]);
        let barred = [
            "program",
            "namespace",
            "packet_socket",
            "vsock_socket",
            "another_process",
        ];
        for barred in barred {
            let said = Errno::ENOSYS.to_string();
            assert_eq!(house.all(barred), [said], "{barred}");
        }
    } else {
        println!("not checked: this kernel filters no system calls");
    }
    if house.all("files") == ["none"] {
        println!("not checked: this kernel bounds no files (no Landlock)");
    } else {
        assert_eq!(house.all("write_elsewhere"), [Errno::EACCES.to_string()]);
    }
    let each = "5 Ok(())";
    assert_eq!(house.all("kernel"), [each; 2], "each its own");
    assert_eq!(house.all("first_use"), ["true"]);
}

fn a_killed_engine_is_replaced() {
    let house = House::new();
    let _keeper = house.keeper();
    house.wait_for("ready 1");
    let natt: SocketAddr = house.all("socket")[1].parse().expect("address");
    let first = house.pid();
    kill(first, Signal::SIGKILL).expect("kill");
    // Into the queue that nobody reads at the moment.
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bind");
    peer.send_to(b"\0\0\0\0while you were out", natt)
        .expect("send");
    house.wait_for("ready 2");
    assert_ne!(house.pid(), first);
    let sockets = house.all("socket");
    assert_eq!(sockets[..2], sockets[2..]);
    assert_eq!(house.all("engines_before"), ["0", "1"]);
    let indexes = house.all("index");
    assert_eq!(
        indexes[0].split(' ').next(),
        indexes[1].split(' ').next(),
        "same epoch"
    );
    assert_ne!(indexes[0], indexes[1]);
    assert_eq!(house.all("was_used"), ["false", "true"]);
    house.wait_for("datagram while you were out");
}

fn a_killed_keeper_comes_back() {
    let house = House::new();
    let mut keeper = house.keeper();
    house.wait_for("ready 1");
    let engine = house.pid();
    keeper.0.kill().expect("kill");
    keeper.0.wait().expect("wait");
    within(
        || kill(engine, None).is_err(),
        "the engine to die with its keeper",
    );
    let _keeper = house.keeper();
    house.wait_for("ready 2");
    let indexes = house.all("index");
    assert_eq!(
        indexes[0].split(' ').next(),
        indexes[1].split(' ').next(),
        "same epoch"
    );
    assert_ne!(indexes[0], indexes[1]);
    assert_eq!(house.all("was_used"), ["false", "true"]);
}

fn sigterm_says_goodbye() {
    for (signals, word) in [
        (&[Signal::SIGTERM][..], "stop true"),
        (&[Signal::SIGQUIT], "stop false"),
        // As systemd sends them when a stop has asked for a goodbye.
        (&[Signal::SIGTERM, Signal::SIGQUIT], "stop true"),
    ] {
        let house = House::new();
        let mut keeper = house.keeper();
        house.wait_for("ready 1");
        kill(keeper.pid(), Signal::SIGSTOP).expect("stop");
        for signal in signals {
            kill(keeper.pid(), *signal).expect("signal");
        }
        kill(keeper.pid(), Signal::SIGCONT).expect("go on");
        assert!(keeper.0.wait().expect("wait").success());
        house.wait_for(word);
        let _keeper = house.keeper();
        house.wait_for("ready 2");
        assert_eq!(house.all("was_used"), ["false", "true"]);
    }
}

fn an_engine_that_will_not_end_is_ended() {
    let house = House::new();
    fs::write(house.path().join("stubborn"), "").expect("write");
    let mut keeper = house.keeper();
    house.wait_for("ready 1");
    let engine = house.pid();
    let asked = Instant::now();
    kill(keeper.pid(), Signal::SIGTERM).expect("signal");
    assert!(keeper.0.wait().expect("wait").success());
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_secs(keeper::STOP_SECONDS),
        "{took:?}"
    );
    assert!(
        took < Duration::from_secs(keeper::STOP_SECONDS + 3),
        "{took:?}"
    );
    assert!(kill(engine, None).is_err());
}

fn one_folder_has_one_keeper() {
    let house = House::new();
    let _keeper = house.keeper();
    house.wait_for("ready 1");
    let mut second = house.command();
    let output = second.stderr(Stdio::piped()).output().expect("run");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another rekindled"), "{said}");
}

/// A state folder, and what the engines in it have said.
struct House(tempfile::TempDir);

struct Running(Child);

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl House {
    fn new() -> Self {
        let house = tempfile::tempdir().expect("folder");
        fs::create_dir(house.path().join("said")).expect("folder");
        Self(house)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.arg("keeper-role").arg(self.path());
        command
    }

    fn keeper(&self) -> Running {
        Running(self.command().spawn().expect("spawn"))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path().join("said/diary")).unwrap_or_default()
    }

    /// Everything said under one word, in order.
    fn all(&self, word: &str) -> Vec<String> {
        let said = self.said();
        let lines = said.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter(|(first, _)| *first == word)
            .map(|(_, rest)| rest.to_owned())
            .collect()
    }

    fn pid(&self) -> Pid {
        let pid = self.all("pid").pop().expect("an engine");
        Pid::from_raw(pid.parse().expect("a number"))
    }

    fn wait_for(&self, line: &str) {
        within(|| self.said().lines().any(|said| said == line), line);
    }
}

fn within(condition: impl Fn() -> bool, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn keeper_role(folder: &Path) {
    let listen = |service| Listen {
        address: "127.0.0.1:0".parse().expect("address"),
        service,
    };
    let options = KeeperOptions {
        state_dir: folder.join("state"),
        run_dir: folder.join("run"),
        listen: vec![listen(Service::Ike), listen(Service::Natt)],
        workers: 2,
        gate: None,
        steer_cpus: Vec::new(),
        flood: FloodMode::Auto,
        engine: vec![
            env::current_exe().expect("this program").into(),
            "engine-role".into(),
            folder.into(),
        ],
        dataplane: DataplaneKind::None,
        vip_interface: "lo".into(),
        xfrm_interfaces: Vec::new(),
        node: Some(9),
        ring: RingOptions {
            ticket_seconds: 3600,
            strict_after_power_loss: false,
        },
    };
    if let Err(error) = keeper::run(options) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn engine_role(folder: &Path) {
    let (state, said) = (folder.join("state"), folder.join("said"));
    let start = EngineStart::from_keeper(&[&state, &said]).expect("a keeper");
    let listener = start.listener;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        runtime.expect("a runtime").block_on(listener.run());
    });
    let diary = Diary(said.join("diary"));
    diary.say("pid", std::process::id());
    diary.say("workers", start.workers.len());
    diary.say("node", start.node);
    diary.say("engines_before", start.boot.engines_before);
    let mut workers = start.workers.into_iter();
    let mut first = workers.next().expect("a worker");
    let mut second = workers.next().expect("another");
    for socket in &first.sockets {
        diary.say("socket", socket.listen().address);
    }
    for outlet in &second.sockets {
        diary.say("outlet", outlet.listen().address);
    }
    let status = fs::read_to_string("/proc/self/status").expect("status");
    for (field, word) in [
        ("CapEff:", "effective"),
        ("CapPrm:", "permitted"),
        ("NoNewPrivs:", "new_privileges_barred"),
        ("Seccomp_filters:", "filters"),
    ] {
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("field");
        diary.say(word, value.trim());
    }
    let index = (0..200).find_map(|_| {
        let index = first.ledger.next_index();
        if index.is_none() {
            sleep(Duration::from_millis(20));
        }
        index
    });
    let (key_id, index) = index.expect("an index within four seconds");
    diary.say("index", format_args!("{key_id} {index}"));
    diary.say("was_used", first.ledger.is_used(key_id, 0));
    diary.say("first_use", second.ledger.mark_used(key_id, 0));
    let owner = Owner("test/net/peer".into());
    for worker in [&first, &second] {
        let owner = owner.clone();
        let release = KernelOp::Release { owner };
        worker.client.kernel(OpId(5), release).expect("send");
        worker.client.flush().expect("send");
    }
    for worker in [&mut first, &mut second] {
        if let Some(KeeperEvent::Kernel(ended)) = worker.events.blocking_recv() {
            for (op, result) in ended {
                diary.say("kernel", format_args!("{} {result:?}", op.0));
            }
        }
    }
    diary.say("files", start.sandbox.files);
    diary.say("calls", start.sandbox.calls);
    try_what_is_barred(folder, &diary);
    let lives = fs::read_to_string(&diary.0).expect("diary");
    diary.say(
        "ready",
        lives
            .lines()
            .filter(|line| line.starts_with("pid "))
            .count(),
    );
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        for socket in &first.sockets {
            let received = socket.receive(BATCH, &mut buffer, |_, message| {
                diary.say("datagram", String::from_utf8_lossy(message));
            });
            received.expect("receive");
        }
        match first.events.try_recv() {
            Ok(KeeperEvent::Stop { goodbye }) => {
                diary.say("stop", goodbye);
                if !folder.join("stubborn").exists() {
                    return;
                }
            }
            Ok(KeeperEvent::Lost) => return,
            _ => sleep(Duration::from_millis(10)),
        }
    }
}

/// What somebody who has taken an engine over would do next.
fn try_what_is_barred(folder: &Path, diary: &Diary) {
    let word =
        |errno: Option<i32>| errno.map_or("done".into(), |no| Errno::from_raw(no).to_string());
    let tried = |what: &str, outcome: Result<(), Errno>| {
        diary.say(what, word(outcome.err().map(|errno| errno as i32)));
    };
    let of_file = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    tried(
        "write_elsewhere",
        fs::write(folder.join("elsewhere"), "").map_err(of_file),
    );
    tried(
        "write_at_home",
        fs::write(folder.join("state/here"), "").map_err(of_file),
    );
    tried(
        "read_elsewhere",
        fs::read("/etc/passwd").map(drop).map_err(of_file),
    );
    tried(
        "program",
        Command::new("/bin/true").spawn().map(drop).map_err(of_file),
    );
    tried("namespace", unshare(CloneFlags::CLONE_NEWUSER));
    let socket_of = |family| socket(family, SockType::Datagram, SockFlag::empty(), None).map(drop);
    tried("udp_socket", socket_of(AddressFamily::Inet));
    tried("packet_socket", socket_of(AddressFamily::Packet));
    tried("vsock_socket", socket_of(AddressFamily::Vsock));
    tried("another_process", ptrace::attach(getppid()));
    let joined = std::thread::spawn(|| 7).join();
    tried("thread", joined.map(drop).map_err(|_| Errno::ECHILD));
}

/// What the engine has to say, for the test to read.
struct Diary(PathBuf);

impl Diary {
    fn say(&self, word: &str, what: impl std::fmt::Display) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .expect("diary");
        file.write_all(format!("{word} {what}\n").as_bytes())
            .expect("write");
    }
}
