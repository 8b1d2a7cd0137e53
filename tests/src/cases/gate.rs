//! The gate's programs on a real kernel: loading, verdicts, links and pins.

pub(crate) mod corpus;
mod cpus;
pub(crate) mod devices;
mod interfaces;
mod lanes;
mod samples;
mod verdicts;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Ebpf, EbpfLoader};
use gate_abi::maps as abi;
use gate_abi::networks::NETWORKS;
use gate_abi::sample::SAMPLES;
use rekindled::gate::{
    Attached, DIRECT_OBJECT, Gate, GateError, GateOptions, Mode, PORTABLE_OBJECT,
};

use self::corpus::{KEY_ID, SPI_KEY, TICKET_KEYS};
use crate::netns::{Namespace, connect};
use crate::suite::{Case, Lab, Skip};

/// In the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "the_verifier_takes_the_gate_within_its_budget",
        run: within_budget,
    },
    Case {
        name: "kernel_and_user_space_judge_every_frame_alike",
        run: verdicts::same_verdicts,
    },
    Case {
        name: "every_datagram_comes_to_the_socket_of_its_lane_and_worker",
        run: lanes::places,
    },
    Case {
        name: "ike_that_passes_goes_to_the_named_cpu_and_nothing_else_does",
        run: cpus::named,
    },
    Case {
        name: "forged_resumptions_do_not_reach_a_socket_behind_the_native_gate",
        run: native,
    },
    Case {
        name: "forged_resumptions_do_not_reach_a_socket_behind_the_generic_gate",
        run: generic,
    },
    Case {
        name: "a_few_drops_each_second_are_shown_with_their_reason",
        run: samples::few_and_right,
    },
    Case {
        name: "an_interface_with_jumbo_frames_gets_the_gate_natively",
        run: jumbo,
    },
    Case {
        name: "a_device_of_layer_3_gets_the_gate_for_it",
        run: devices::attached,
    },
    Case {
        name: "a_restarted_daemon_swaps_the_program_under_the_same_link",
        run: restart,
    },
    Case {
        name: "an_object_of_another_abi_version_is_refused",
        run: other_version,
    },
    Case {
        name: "pins_that_do_not_fit_are_not_used",
        run: misfits,
    },
    Case {
        name: "an_interface_already_taken_is_named_with_its_program_and_asked_again",
        run: interfaces::taken,
    },
    Case {
        name: "an_interface_that_comes_later_or_again_gets_the_gate",
        run: interfaces::come_and_go,
    },
    Case {
        name: "an_interface_with_a_dot_in_its_name_gets_the_gate",
        run: interfaces::dotted,
    },
];

/// Of each program: instructions that the verifier follows, octets of BPF code and of machine code.
const VERIFIER_BUDGET: u32 = 250_000;
const BPF_BUDGET: u32 = 80_000;
const MACHINE_BUDGET: u32 = 40_000;

fn within_budget(lab: &mut Lab) -> Result<()> {
    let gate = Gate::attach(&options(lab, "budget", &[])?)?;
    let loaded = gate.loaded().clone();
    gate.detach()?;
    for program in &loaded.verified {
        println!(
            "      {} {}: {} verifier instructions, {} octets of BPF, {} of machine code",
            program.object,
            program.program,
            program.size.followed,
            program.size.bpf,
            program.size.machine
        );
    }
    let lanes = loaded.lanes.context("the program for lanes did not load")?;
    println!("      {PORTABLE_OBJECT} lanes: {lanes} verifier instructions");
    ensure!(lanes < VERIFIER_BUDGET, "lanes: {lanes}");
    for program in &loaded.verified {
        let within = program.size.followed < VERIFIER_BUDGET
            && program.size.bpf < BPF_BUDGET
            && program.size.machine < MACHINE_BUDGET;
        ensure!(within, "{program:?}");
    }
    let has = |object| {
        loaded
            .verified
            .iter()
            .any(|program| program.object == object)
    };
    ensure!(has(PORTABLE_OBJECT), "the portable object did not load");
    if lab.kernel() == "uml" {
        // Its verifier wants natural alignment, which is what the portable object is for.
        ensure!(!loaded.reason.is_empty(), "no word about the direct object");
    } else {
        ensure!(
            has(DIRECT_OBJECT),
            "the direct object did not load: {}",
            loaded.reason
        );
    }
    Ok(())
}

fn native(lab: &mut Lab) -> Result<()> {
    behind(lab, "native", Mode::Native, Attached::Native, 1500)
}

fn generic(lab: &mut Lab) -> Result<()> {
    behind(lab, "generic", Mode::Generic, Attached::Generic, 1500)
}

fn jumbo(lab: &mut Lab) -> Result<()> {
    behind(lab, "jumbo", Mode::Native, Attached::Native, 9000)
}

fn behind(lab: &Lab, name: &str, mode: Mode, expected: Attached, mtu: u32) -> Result<()> {
    let cable = Cable::lay(mtu)?;
    let options = GateOptions {
        mode,
        ..options(lab, name, &["inside"])?
    };
    let mut gate = cable.attach(&options)?;
    let attachment = gate.attachments().first().context("no attachment")?.clone();
    ensure!(attachment.mode == expected, "{attachment:?}");

    let forged: Vec<_> = (0..500)
        .map(|index| corpus::forged(index).octets())
        .collect();
    let genuine: Vec<_> = (0..20)
        .map(|index| corpus::genuine(index).octets())
        .collect();
    for address in corpus::LOCAL {
        cable.send(address, &forged)?;
        cable.send(address, &genuine)?;
        let got = cable.received()?;
        ensure!(
            got == genuine,
            "{address}: {} datagrams arrived, not {}",
            got.len(),
            genuine.len()
        );
    }
    let count = counted(&gate)?;
    let refused = count["tag_wrong"] + count["nack_tag_wrong"];
    ensure!(refused == 1000, "{count:?}");
    ensure!(count["resume_proven"] == 40, "{count:?}");

    // The key goes, and with it every ticket of its epoch.
    gate.set_ticket_keys(&[(KEY_ID + 1, TICKET_KEYS)])?;
    cable.send(corpus::LOCAL[0], &genuine)?;
    ensure!(cable.received()?.is_empty(), "a ticket without key passed");
    let count = counted(&gate)?;
    ensure!(
        count["unknown_key_id"] + count["nack_unknown_key_id"] == 20,
        "unknown key ids were not counted"
    );

    gate.detach()?;
    cable.send(corpus::LOCAL[0], &forged)?;
    let without = cable.received()?.len();
    ensure!(
        without == forged.len(),
        "only {without} arrived without a gate: the test proves nothing"
    );
    Ok(())
}

fn restart(lab: &mut Lab) -> Result<()> {
    let cable = Cable::lay(1500)?;
    let options = options(lab, "restart", &["inside"])?;
    let pin = options.pin_dir.join("links/inside");
    let gate = cable.attach(&options)?;
    let (link, program) = link(&pin)?;
    let forged: Vec<_> = (0..50)
        .map(|index| corpus::forged(index).octets())
        .collect();
    // As a killed daemon would leave it.
    drop(gate);
    cable.send(corpus::LOCAL[0], &forged)?;
    ensure!(
        cable.received()?.is_empty(),
        "the gate did not outlive its daemon"
    );
    // The next daemon's gate goes on with what it was told, until it is told something else.
    drop(Gate::load(&options)?);
    let maps = options.pin_dir.join(format!("v{}", abi::ABI_VERSION));
    let config = Map::Array(MapData::from_pin(maps.join(abi::CONFIG))?);
    let config: Array<_, [u64; abi::Config::WORDS]> = config.try_into()?;
    let told = abi::Config::from_words(&config.get(&0, 0)?);
    let kept = abi::CHECK_LOCAL | abi::CHECK_OWN_SPI | abi::TICKET_KEYS_SET;
    ensure!(told.flags & kept == kept, "{told:?}");

    let done = AtomicBool::new(false);
    let (gate, sent) = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) && sent < 200_000 {
                cable.send(corpus::LOCAL[0], &forged)?;
                sent += forged.len() as u64;
            }
            Ok(sent)
        });
        let gate = cable.attach(&options);
        done.store(true, Ordering::Relaxed);
        let sent = flood
            .join()
            .map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        Ok((gate?, sent))
    })?;
    ensure!(
        gate.attachments()[0].mode == Attached::Native,
        "{:?}",
        gate.attachments()
    );
    let got = cable.received()?.len();
    ensure!(
        got == 0,
        "{got} of {sent} slipped through while the program was swapped"
    );
    let (link_now, program_now) = self::link(&pin)?;
    ensure!(link_now == link, "link {link} became {link_now}");
    ensure!(program_now != program, "the program was not swapped");
    let count = counted(&gate)?;
    let dropped = count["tag_wrong"] + count["nack_tag_wrong"];
    ensure!(
        dropped == sent + forged.len() as u64,
        "{dropped} counted, {sent} sent: maps were lost"
    );
    drop(gate);

    let nowhere = GateOptions {
        interfaces: Vec::new(),
        ..options
    };
    let gate = cable.attach(&nowhere)?;
    ensure!(
        !pin.exists(),
        "a link that is not configured is still there"
    );
    cable.send(corpus::LOCAL[0], &forged)?;
    let got = cable.received()?.len();
    ensure!(got == forged.len(), "the gate still stands: {got} arrived");
    gate.detach()?;
    Ok(())
}

fn other_version(lab: &mut Lab) -> Result<()> {
    let right = options(lab, "version", &[])?;
    for name in [DIRECT_OBJECT, PORTABLE_OBJECT] {
        let mut object = fs::read(lab.object(name)?)?;
        let symbol = abi::ABI_SYMBOL.as_bytes();
        let places: Vec<_> = (0..object.len() - symbol.len())
            .filter(|&at| object[at..].starts_with(symbol))
            .collect();
        ensure!(
            !places.is_empty(),
            "{name} has no symbol for its ABI version"
        );
        for at in places {
            object[at] ^= 0x20;
        }
        fs::write(lab.work().join(name), object)?;
    }
    let wrong = GateOptions {
        object_dir: lab.work().to_owned(),
        ..right.clone()
    };
    let refused = Gate::attach(&wrong).err();
    ensure!(
        matches!(refused, Some(GateError::Abi { .. })),
        "{refused:?}"
    );
    Gate::attach(&right)?.detach()?;
    Ok(())
}

fn misfits(lab: &mut Lab) -> Result<()> {
    let options = options(lab, "misfits", &[])?;
    let maps = options.pin_dir.join(format!("v{}", abi::ABI_VERSION));
    let private = |folder: &Path| DirBuilder::new().recursive(true).mode(0o700).create(folder);
    private(&maps)?;
    let former = options.pin_dir.join("v0");
    private(&former)?;
    let pin = maps.join(abi::LOCAL);
    let few = EbpfLoader::new()
        .map_max_entries(abi::LOCAL, 7)
        .map_pin_path(abi::LOCAL, &pin)
        .load_file(options.object_dir.join(PORTABLE_OBJECT))?;
    drop(few);
    ensure!(
        MapInfo::from_pin(&pin)?.max_entries() == 7,
        "no misfit to find"
    );
    let mut gate = Gate::attach(&options)?;
    ensure!(!former.exists(), "maps of another version are still there");
    let many: Vec<_> = (0..100u8)
        .map(|last| IpAddr::from([192, 0, 2, last]))
        .collect();
    gate.set_local_addresses(&many, &many[50..])?;
    gate.set_local_addresses(&many[..1], &[])?;
    gate.detach()?;
    ensure!(!pin.exists(), "the pins outlived the gate");

    // Whoever can write to the folder could lay a map of theirs into it.
    private(&options.pin_dir)?;
    fs::set_permissions(&options.pin_dir, Permissions::from_mode(0o777))?;
    let refused = Gate::attach(&options).err();
    ensure!(
        matches!(refused, Some(GateError::PinFolder { .. })),
        "{refused:?}"
    );
    fs::remove_dir_all(&options.pin_dir)?;
    Ok(())
}

/// A sender, a cable, and a socket on port 500 at its other end.
struct Cable {
    outside: Namespace,
    inside: Namespace,
    socket: UdpSocket,
}

impl Cable {
    fn lay(mtu: u32) -> Result<Self> {
        let (outside, inside) = (Namespace::new("outside")?, Namespace::new("inside")?);
        connect(
            (&outside, "outside", &["192.0.2.1/24", "2001:db8::1/64"]),
            (&inside, "inside", &["192.0.2.2/24", "2001:db8::2/64"]),
        )?;
        outside.ip(&format!("link set outside mtu {mtu}"))?;
        inside.ip(&format!("link set inside mtu {mtu}"))?;
        // Neighbours are known, so that no datagram waits for one and is dropped.
        let socket = inside.within(|| UdpSocket::bind("[::]:500"))??;
        socket.set_read_timeout(Some(QUIET))?;
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::RcvBufForce,
            &RECEIVE_BUFFER,
        )?;
        let cable = Self {
            outside,
            inside,
            socket,
        };
        for address in corpus::LOCAL {
            cable.await_path(address)?;
        }
        Ok(cable)
    }

    fn attach(&self, options: &GateOptions) -> Result<Gate> {
        let mut gate = self.inside.within(|| Gate::attach(options))??;
        tell(&mut gate)?;
        Ok(gate)
    }

    /// Sends each datagram from outside to port 500.
    fn send(&self, address: &str, datagrams: &[Vec<u8>]) -> Result<()> {
        let to: IpAddr = address.parse()?;
        self.outside.within(|| -> Result<()> {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            for datagram in datagrams {
                socket.send_to(datagram, (to, 500))?;
            }
            Ok(())
        })?
    }

    /// What has arrived, until nothing comes any more.
    fn received(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => all.push(buffer[..len].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn await_path(&self, address: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            self.send(address, &[b"hello".to_vec()])?;
            if !self.received()?.is_empty() {
                return Ok(());
            }
        }
        bail!("no way to {address}");
    }
}

pub(crate) fn options(lab: &Lab, name: &str, interfaces: &[&str]) -> Result<GateOptions> {
    let object = lab.object(PORTABLE_OBJECT)?;
    let object_dir = object
        .parent()
        .context("an object lies in a folder")?
        .to_owned();
    if !lab.bpf().is_dir() {
        return Err(Skip("no BPF file system in this lab".to_owned()).into());
    }
    Ok(GateOptions {
        object_dir,
        pin_dir: lab.bpf().join(format!("gate-{name}")),
        interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
        mode: Mode::Auto,
        masquerade: false,
        denied: Vec::new(),
    })
}

/// Tells a gate what [`Told`] knows.
pub(crate) fn tell(gate: &mut Gate) -> Result<()> {
    gate.set_ticket_keys(&[(KEY_ID, TICKET_KEYS)])?;
    gate.set_wall_minus_boot(Some(0))?;
    gate.set_spi_keys(&[SPI_KEY])?;
    gate.set_check_own_spi(true)?;
    let local: Vec<IpAddr> = corpus::LOCAL
        .iter()
        .filter_map(|local| local.parse().ok())
        .collect();
    gate.set_local_addresses(&local, &[])?;
    Ok(())
}

fn counted(gate: &Gate) -> Result<BTreeMap<&'static str, u64>> {
    Ok(gate
        .counters()?
        .into_iter()
        .map(|(reason, packets, _)| (reason, packets))
        .collect())
}

pub(crate) fn load(object: &Path, maps: &Path) -> Result<Ebpf> {
    let names = [
        abi::KEYS,
        abi::SPI_KEYS,
        abi::COOKIE_KEYS,
        abi::METERS,
        abi::LOCAL,
        NETWORKS,
        abi::CONFIG,
        abi::OWN,
        SAMPLES,
        abi::BOARD,
    ];
    let pins: Vec<(&str, PathBuf)> = names.iter().map(|name| (*name, maps.join(name))).collect();
    let mut loader = EbpfLoader::new();
    for (name, pin) in &pins {
        loader.map_pin_path(name, pin);
    }
    loader
        .load_file(object)
        .with_context(|| object.display().to_string())
}

/// Ids of a pinned link and of the program under it.
fn link(pin: &Path) -> Result<(u32, u32)> {
    let info = FdLink::from(PinnedLink::from_pin(pin)?).info()?;
    Ok((info.id(), info.program_id()))
}

/// Nothing is on its way any more after so long.
const QUIET: Duration = Duration::from_millis(150);
const RECEIVE_BUFFER: usize = 8 << 20;
