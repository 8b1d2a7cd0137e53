//! `cargo xtask deploy` onto a machine behind an sshd, in a namespace: looked at, installed, replaced, and
//! put back when what was brought is not well.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    netns::{Namespace, connect},
    process::Daemon,
    suite::{Case, Lab, Skip},
    until::until,
};

/// First a look, then a first version, then one that is broken, then a port that is taken.
pub(super) const DEPLOYS: Case = Case {
    name: "a_router_is_looked_at_gets_a_version_and_keeps_it_when_the_next_one_is_broken",
    run: deploys,
};

fn deploys(lab: &mut Lab) -> Result<()> {
    let (desk, router) = (Namespace::new("desk")?, Namespace::new("router")?);
    connect(
        (&desk, "eth0", &["192.0.2.2/24"]),
        (&router, "eth0", &[&format!("{ROUTER}/24")]),
    )?;
    let office = Office::open(lab, &desk, &router)?;
    // Symbols of a debug build are four fifths of what would go through ssh, five times.
    let small = office.work.join("stripped");
    let mut strip = Command::new("strip");
    let stripped = strip.arg("-o").arg(&small).arg(lab.binary("rekindled")?);
    let program = match stripped.status() {
        Ok(status) if status.success() => small,
        _ => lab.binary("rekindled")?,
    };
    let good = office.version("good", &program)?;

    // Only a look.
    let looked = office.deploy(&good, &["--dry-run"])?;
    let said = text(&looked);
    ensure!(looked.status.success(), "{said}");
    for line in [
        "good     esp",
        "native XDP (veth)",
        "would copy",
        "would start",
    ] {
        ensure!(said.contains(line), "no {line:?} in {said}");
    }
    ensure!(!office.prefix.exists(), "a look has left something");

    // The first version.
    let first = office.deploy(&good, &[])?;
    ensure!(first.status.success(), "{}", text(&first));
    let running = office.running()?;
    ensure!(
        running.contains(" native") || running.contains("WARNING"),
        "{running}"
    );

    // A version that starts and does nothing, and one that does not even start.
    let dumb = office.work.join("dumb");
    fs::write(&dumb, "#!/bin/sh\n[ \"$1\" = --check ] || exec sleep 1\n")?;
    fs::set_permissions(&dumb, fs::Permissions::from_mode(0o755))?;
    let broken = office.deploy(&office.version("broken", &dumb)?, &[])?;
    let said = text(&broken);
    ensure!(!broken.status.success(), "{said}");
    ensure!(said.contains("the former one runs again"), "{said}");
    office.running()?;
    let installed = fs::read(office.prefix.join("sbin/rekindled"))?;
    ensure!(
        installed != fs::read(&dumb)?,
        "the broken version is in place"
    );

    let no_program = office.version("no-program", Path::new("/etc/hostname"))?;
    let refused = office.deploy(&no_program, &[])?;
    let said = text(&refused);
    ensure!(
        !refused.status.success() && said.contains("nothing was changed"),
        "{said}"
    );
    office.running()?;

    // A version that cuts the way to it. Nobody can tell the router anything any more.
    let cutting = office.work.join("cuts");
    let cut = "#!/bin/sh\n[ \"$1\" = --check ] && exit\nip link set eth0 down\nexec sleep 1\n";
    fs::write(&cutting, cut)?;
    fs::set_permissions(&cutting, fs::Permissions::from_mode(0o755))?;
    let cut_off = office.deploy(
        &office.version("cutting", &cutting)?,
        &["--confirm-within", "15"],
    )?;
    let said = text(&cut_off);
    ensure!(
        !cut_off.status.success() && said.contains("puts back by itself"),
        "{said}"
    );
    until("the former version is back", START, || {
        Ok(office.running().is_ok())
    })?;
    ensure!(
        installed == fs::read(office.prefix.join("sbin/rekindled"))?,
        "another version is in place"
    );
    router.ip("link set eth0 up")?;

    // A configuration with a fault is found before anything is touched.
    let config = fs::read_to_string(&office.config)?;
    fs::write(&office.config, format!("{config}\n[daemon2]\n"))?;
    let refused = office.deploy(&good, &[])?;
    let said = text(&refused);
    ensure!(
        !refused.status.success() && said.contains("daemon2"),
        "{said}"
    );
    office.running()?;
    fs::write(&office.config, config)?;

    // Somebody else has the port.
    office.stop()?;
    let squatter = router.within(|| std::net::UdpSocket::bind(("0.0.0.0", 500)))??;
    let refused = office.deploy(&good, &[])?;
    let said = text(&refused);
    ensure!(
        !refused.status.success() && said.contains("UDP 500: taken by"),
        "{said}"
    );
    drop(squatter);
    Ok(())
}

/// A desk with ssh, and a router with sshd.
struct Office<'a> {
    desk: &'a Namespace,
    router: &'a Namespace,
    work: PathBuf,
    xtask: PathBuf,
    prefix: PathBuf,
    config: PathBuf,
    ssh: String,
    tools: [PathBuf; 2],
    _sshd: Daemon,
}

impl<'a> Office<'a> {
    fn open(lab: &Lab, desk: &'a Namespace, router: &'a Namespace) -> Result<Self> {
        if !Path::new(SSHD).is_file() {
            return Err(Skip("there is no sshd: `cargo xtask setup`".into()).into());
        }
        let work = lab.work().to_owned();
        for key in ["host", "user"] {
            let file = work.join(key);
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(file);
            ensure!(keygen.status()?.success(), "ssh-keygen");
        }
        // sshd wants a user to be while nobody has logged in. The lab's /etc is its own.
        let users = fs::read_to_string("/etc/passwd")?;
        if !users.contains("\nsshd:") {
            fs::write(
                "/etc/passwd",
                users + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n",
            )?;
        }
        fs::create_dir_all("/run/sshd")?;
        fs::copy(work.join("user.pub"), work.join("authorized"))?;
        let settings = format!(
            "ListenAddress {ROUTER}\nHostKey {w}/host\nAuthorizedKeysFile {w}/authorized\n\
             PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n",
            w = work.display()
        );
        fs::write(work.join("sshd_config"), settings)?;
        let mut command = router.command(SSHD);
        command
            .args(["-D", "-e", "-f"])
            .arg(work.join("sshd_config"));
        let mut sshd = Daemon::start(lab, "sshd", &mut command)?;
        sshd.wait_for_line("Server listening", START)?;

        let client = work.join("ssh_config");
        let known = format!("{ROUTER} {}", fs::read_to_string(work.join("host.pub"))?);
        fs::write(work.join("known"), known)?;
        let settings = format!(
            "IdentityFile {w}/user\nUserKnownHostsFile {w}/known\nStrictHostKeyChecking yes\n\
             BatchMode yes\n\
             ServerAliveInterval 3\nServerAliveCountMax 5\nConnectTimeout 15\n\
             ControlMaster auto\nControlPath {w}/m\nControlPersist 60\n",
            w = work.display()
        );
        fs::write(&client, settings)?;

        let (prefix, config) = (work.join("usr"), work.join("rekindle.toml"));
        let text = format!(
            "[daemon]\nstate_dir = \"{w}/state\"\nrun_dir = \"{w}/run\"\n\
             [gate]\nobjects_dir = \"{w}/usr/lib/rekindle\"\n",
            w = work.display()
        );
        fs::write(&config, text)?;
        Ok(Self {
            desk,
            router,
            xtask: lab.binary("xtask")?,
            prefix,
            config,
            ssh: format!("ssh -F {}", client.display()),
            tools: [lab.binary("ikectl")?, lab.object("gate-portable.o")?],
            work,
            _sshd: sshd,
        })
    }

    /// A folder to deploy from, with this as the daemon.
    fn version(&self, name: &str, daemon: &Path) -> Result<PathBuf> {
        let folder = self.work.join(name);
        fs::create_dir(&folder)?;
        let [tool, object] = &self.tools;
        for (file, name) in [
            (daemon, "rekindled"),
            (tool, "ikectl"),
            (object, "gate-portable.o"),
        ] {
            symlink(file, folder.join(name))?;
        }
        Ok(folder)
    }

    fn deploy(&self, from: &Path, options: &[&str]) -> Result<Output> {
        let mut command = self.desk.command(&self.xtask);
        command
            .args(["deploy", &format!("root@{ROUTER}"), "--ssh", &self.ssh])
            .arg("--from")
            .arg(from)
            .arg("--prefix")
            .arg(&self.prefix)
            .arg("--config")
            .arg(&self.config)
            .arg("--socket")
            .arg(self.socket())
            .args(options)
            .env("CARGO_MANIFEST_DIR", self.work.join("xtask"))
            .env("CARGO_TARGET_DIR", self.work.join("target"))
            .stdin(Stdio::null());
        command.output().context("xtask")
    }

    /// What the installed tool says of the daemon that runs.
    fn running(&self) -> Result<String> {
        let output = self.ikectl(&["status", "--check"])?;
        let said = text(&output);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "{said}");
        Ok(said)
    }

    fn stop(&self) -> Result<()> {
        self.ikectl(&["shutdown"])?;
        let deadline = Instant::now() + START;
        while self.ikectl(&["status"])?.status.code() != Some(4) {
            ensure!(Instant::now() < deadline, "it does not stop");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn ikectl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.router.command(self.prefix.join("bin/ikectl"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        command.stdin(Stdio::null()).output().context("ikectl")
    }

    fn socket(&self) -> PathBuf {
        self.work.join("run/control.sock")
    }
}

impl Drop for Office<'_> {
    /// What runs from the prefix has no parent of ours.
    fn drop(&mut self) {
        let _ = self.ikectl(&["shutdown"]);
        let _ = self.router.run("pkill", "-KILL -x rekindled");
        // What the first connection left open for the others.
        let leave = format!("{} -O exit {ROUTER}", &self.ssh["ssh ".len()..]);
        let _ = self.desk.run("ssh", &leave);
    }
}

fn text(output: &Output) -> String {
    let (said, why) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(said).into_owned() + &String::from_utf8_lossy(why)
}

const ROUTER: &str = "192.0.2.1";
const SSHD: &str = "/usr/sbin/sshd";
const START: Duration = Duration::from_secs(20);
