//! QEMU without KVM: Debian's cloud kernel from the cache, with the host's file system as its root.
//!
//! The file system comes over virtiofs. The kernel has that only as a module, so it starts from an
//! archive of busybox and a handful of modules, and leaves it at once.

mod archive;

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{Lab, available_memory, console, contained, preload, quote};
use crate::packages::MACHINE;
use crate::places::Places;
use crate::shell;
use archive::Archive;

/// The guest's memory, and what must be free so that it does not push others out.
const MEMORY_MEGABYTES: u64 = 1024;
const FREE_MEGABYTES: u64 = 2048;

/// What must be loaded before the root file system can be mounted and laid over.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// Says why the machine would not start here, before it fails in its own words.
pub(super) fn preflight(places: &Places) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the virtual machine runs the host's programs, and is built for x86_64 only"
    );
    Files::find(places)?;
    for program in ["setpriv", "unshare"] {
        shell::which(program).with_context(|| format!("{program} is missing (util-linux)"))?;
    }
    let free = available_memory()?;
    ensure!(
        free >= FREE_MEGABYTES,
        "the virtual machine needs {FREE_MEGABYTES} MB of memory, {free} MB are free"
    );
    Ok(())
}

/// Boots, runs the command of the init script, and returns its exit status.
pub(super) fn boot(
    places: &Places,
    init: &Path,
    mark: &str,
    lab: &Lab,
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u8> {
    let files = Files::find(places)?;
    let folder = init.parent().context("the init script has no folder")?;
    let archive = folder.join("initramfs");
    fs::write(&archive, files.archive(init)?)?;

    let socket = folder.join("root");
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("{}: is the path too long?", socket.display()))?;
    fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;

    let shim = preload::build(places, "noatime", include_str!("noatime.c"))?;
    let mut command = contained("--map-root-user");
    command.args(["sh", "-c", include_str!("machine.sh"), "machine"]);
    command
        .arg(listener.as_raw_fd().to_string())
        .arg(shim)
        .arg(files.folder.join("usr/lib/qemu/virtiofsd"))
        .arg(files.folder.join("usr/bin/qemu-system-x86_64"))
        .env("LD_LIBRARY_PATH", &files.libraries)
        .current_dir(folder);
    for share in ["qemu", "seabios"] {
        command
            .arg("-L")
            .arg(files.folder.join("usr/share").join(share));
    }
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-smp", "2", "-no-reboot", "-nic", "none"]);
    // The file system's server reads and writes the guest's memory.
    command
        .arg("-m")
        .arg(format!("{MEMORY_MEGABYTES}M"))
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=memory,size={MEMORY_MEGABYTES}M,share=on"
        ));
    command.args(["-numa", "node,memdev=memory"]);
    command.args(["-chardev", "socket,id=root,path=root"]);
    command.args(["-device", "vhost-user-fs-pci,chardev=root,tag=host"]);
    command.args(["-chardev", "stdio,id=console,signal=off"]);
    command.args(["-serial", "chardev:console"]);
    command.arg("-kernel").arg(&files.kernel);
    command.arg("-initrd").arg("initramfs");
    command.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"]);
    console::watch(&mut command, mark, "the virtual machine", lab, show)
}

/// The parts of the machine in the cache.
struct Files {
    folder: PathBuf,
    libraries: PathBuf,
    kernel: PathBuf,
    /// The kernel's modules, with their dependencies listed.
    modules: PathBuf,
}

impl Files {
    fn find(places: &Places) -> Result<Self> {
        let folder = MACHINE
            .found(places)
            .context("not in the cache: `cargo xtask lab --kernel qemu -- true` fetches it")?;
        let libraries = folder.join("usr/lib/x86_64-linux-gnu");
        let kernel = only(&folder.join("boot"), "vmlinuz-")?;
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        let release = name.trim_start_matches("vmlinuz-").to_owned();
        let files = Self {
            modules: folder.join("usr/lib/modules").join(&release),
            folder,
            libraries,
            kernel,
        };
        if !files.modules.join("modules.dep").is_file() {
            files.list_dependencies(&release)?;
        }
        Ok(files)
    }

    /// The kernel's installation would have done it.
    fn list_dependencies(&self, release: &str) -> Result<()> {
        let cached = self.folder.join("usr/bin/kmod");
        let kmod = if cached.is_file() {
            cached
        } else {
            shell::which("kmod").context("kmod is missing")?
        };
        let mut command = Command::new(kmod);
        // It goes by the name it is called with.
        command
            .arg0("depmod")
            .env("LD_LIBRARY_PATH", &self.libraries);
        command.arg("-b").arg(self.folder.join("usr")).arg(release);
        shell::run(&mut command).context("depmod")
    }

    /// What the kernel starts from.
    fn archive(&self, init: &Path) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        archive.folder("bin")?;
        let busybox = self.folder.join("usr/bin/busybox");
        archive.program("bin/busybox", &fs::read(&busybox).context("busybox")?)?;

        archive.folder("modules")?;
        let list = fs::read_to_string(self.modules.join("modules.dep"))?;
        let mut order = String::new();
        for module in load_order(&list, &MODULES) {
            let name = file_name(module);
            archive.program(
                &format!("modules/{name}"),
                &fs::read(self.modules.join(module))?,
            )?;
            order += name;
            order.push('\n');
        }
        archive.program("modules/order", order.as_bytes())?;

        let init = quote(&init.display().to_string());
        let script = format!(
            "{}exec /bin/busybox switch_root /host {init}\n",
            include_str!("boot.sh")
        );
        archive.program("init", script.as_bytes())?;
        archive.finish()
    }
}

/// The files to load for `wanted`, each after those it needs; what is not listed is built in.
fn load_order<'a>(list: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        // "module: what it needs, the first needed last"
        let line = list.lines().filter_map(|line| line.split_once(':'));
        let Some((module, needs)) = line
            .into_iter()
            .find(|(module, _)| stem(module) == name.replace('-', "_"))
        else {
            continue;
        };
        for file in needs.split_whitespace().rev().chain([module]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stem(path: &str) -> String {
    let name = file_name(path);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// The only file of a folder whose name starts so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        });
    match (found.next(), found.next()) {
        (Some(file), None) => Ok(file),
        _ => bail!("not exactly one {prefix} in {}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_after_what_it_needs() {
        let list = "a/virtio.ko:\na/virtio_ring.ko: a/virtio.ko\n\
                    b/virtio-pci.ko: a/virtio_ring.ko a/virtio.ko\n\
                    c/overlay.ko:\nd/unrelated.ko: a/virtio.ko\n";
        let order = load_order(list, &["virtio_pci", "overlay", "built_in"]);
        let expected = [
            "a/virtio.ko",
            "a/virtio_ring.ko",
            "b/virtio-pci.ko",
            "c/overlay.ko",
        ];
        assert_eq!(order, expected);
    }
}
