//! One virtual machine: this machine's files, read through, below another kernel. What it writes is forgotten.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::kernel::Kernel;
use crate::process::{as_root, output};

/// Modules that the root file system needs.
const MODULES: [&str; 4] = ["virtio_pci", "virtiofs", "overlay", "virtio_rng"];
/// Memory, in MiB; half of it holds what is written.
const MEMORY: u32 = 4096;
/// Time limit of the boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Line that the machine says when it has begun.
const BEGUN: &str = "ssa-vm: begun";

/// Kind of processor: the host's, or an emulated one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accel {
    Kvm,
    Tcg,
}

/// System of the machine: its files, and what begins there.
pub(crate) enum System<'a> {
    /// Files of this machine; the script is the first process.
    Own,
    /// The files below a folder, with systemd as the first process and the script as its service.
    Systemd(&'a Path),
}

/// Boots `kernel`, runs `script` in it as root with `bash`, and passes on the lines that come from there. An
/// error if it does not come to its end within `limit`.
pub(crate) fn run(
    kernel: &Kernel,
    accel: Accel,
    system: &System<'_>,
    script: &str,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("ssa-vm").tempdir()?;
    let (files, guest) = match system {
        System::Own => (Path::new("/"), prepare(kernel)),
        System::Systemd(files) => (*files, SYSTEMD.replace("{begun}", BEGUN)),
    };
    let guest = guest.replace("{script}", &format!("{script}\necho ssa-vm: ended\n{POWER_OFF}\n"));
    let initrd = initramfs(kernel, &folder, &guest)?;
    let socket = folder.path().join("root.sock");
    let _files = Running(share(files, &socket)?);
    let mut machine = Running(qemu(kernel, accel, &initrd, &socket)?);
    let pipe = machine.0.stdout.take().context("its output is ours")?;
    let (sender, lines) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&text).trim_end_matches('\r').to_owned()).is_err() {
                return;
            }
        }
    });
    let (began, mut begun, mut ended) = (Instant::now(), false, false);
    loop {
        let left = if begun { limit } else { BOOT_LIMIT }.saturating_sub(began.elapsed());
        match lines.recv_timeout(left) {
            // The firmware leaves no end of line.
            Ok(text) if text.ends_with(BEGUN) => begun = true,
            Ok(text) if text == "ssa-vm: ended" => ended = true,
            Ok(text) if begun && !ended => line(&text),
            Ok(_before_or_after) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) if ended => return Ok(()),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => bail!("the machine ended by itself"),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if begun => bail!("the machine took over {limit:?}"),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => bail!("the machine did not boot within {BOOT_LIMIT:?}"),
        }
    }
}

const POWER_OFF: &str = "echo o > /proc/sysrq-trigger; sleep 60";

/// The environment of a test, as on any machine.
fn prepare(kernel: &Kernel) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_default();
    let modules = kernel.base.join("lib/modules").join(&kernel.release);
    format!(
        r#"
export PATH='{path}:/usr/sbin:/sbin' HOME='{home}' LANG=C.UTF-8 SSA_SLOW_MACHINE=1 SSA_TRACING=1
mount -t tmpfs tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
mount -t securityfs none /sys/kernel/security
mkdir -p /dev/pts /dev/shm /lib/modules/{release}
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount --bind '{modules}' /lib/modules/{release}
hostname vm
ip link set lo up
ulimit -n 20000
echo; echo '{BEGUN}'
{{script}}"#,
        modules = modules.display(),
        release = kernel.release,
    )
}

/// systemd with what it needs for services, and the script as the one that it begins for.
const SYSTEMD: &str = r#"
export LANG=C.UTF-8
cat > /ssa-guest.sh <<'END OF THE SCRIPT'
echo; echo '{begun}'
{script}
END OF THE SCRIPT
cat > /etc/systemd/system/ssa-guest.service <<'END'
[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash /ssa-guest.sh
StandardOutput=file:/dev/ttyS0
StandardError=inherit
TimeoutStartSec=infinity
END
exec /lib/systemd/systemd --unit=ssa-guest.service --show-status=false --log-level=warning
"#;

/// Loads what the root needs, mounts the files below a layer that takes the writes, and goes there.
fn initramfs(kernel: &Kernel, folder: &TempDir, guest: &str) -> Result<PathBuf> {
    let root = folder.path().join("initramfs");
    let modules = root.join("modules");
    fs::create_dir_all(&modules)?;
    fs::copy("/bin/busybox", root.join("busybox")).context("busybox-static is installed")?;
    output(Command::new("/sbin/depmod").arg("-b").arg(&kernel.base).arg(&kernel.release))?;
    let mut files: Vec<String> = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("/sbin/modprobe");
        modprobe.arg("-d").arg(&kernel.base).args(["-S", &kernel.release, "--show-depends", module]);
        // One that is built in has no file; one that isn't there at all is missed at boot.
        let list = output(&mut modprobe).unwrap_or_default();
        let needed = list.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| file.trim().to_owned());
        for file in needed.filter(|file| !files.contains(file)).collect::<Vec<_>>() {
            files.push(file);
        }
    }
    for (index, file) in files.iter().enumerate() {
        let to = modules.join(format!("{index:02}.ko"));
        if file.ends_with(".xz") {
            let unpacked = Command::new("xz").args(["-dc", file]).output()?;
            ensure!(unpacked.status.success(), "unpacking {file} failed");
            fs::write(to, unpacked.stdout)?;
        } else {
            fs::copy(file, to)?;
        }
    }
    let init = root.join("init");
    fs::write(root.join("guest.sh"), guest)?;
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = folder.path().join("initrd");
    let mut cpio = Command::new("cpio")
        .current_dir(&root)
        .args(["--create", "--format=newc", "--quiet", "--null"])
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&archive)?)
        .spawn()
        .context("cpio is installed")?;
    let mut names: Vec<String> = ["busybox", "guest.sh", "init", "modules"].map(str::to_owned).to_vec();
    names.extend((0..files.len()).map(|index| format!("modules/{index:02}.ko")));
    cpio.stdin.take().context("piped")?.write_all(names.join("\0").as_bytes())?;
    ensure!(cpio.wait()?.success(), "making the initramfs failed");
    Ok(archive)
}

const INIT: &str = r#"#!/busybox sh
/busybox mkdir -p /proc /sys /dev /low /layer /new
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /busybox insmod $module; done
/busybox mount -t virtiofs -o ro root /low
/busybox mount -t tmpfs -o size=50% layer /layer
/busybox mkdir /layer/upper /layer/work
/busybox mount -t overlay -o lowerdir=/low,upperdir=/layer/upper,workdir=/layer/work root /new
for there in dev sys proc; do /busybox mkdir -p /new/$there; /busybox mount --move /$there /new/$there; done
/busybox cp /guest.sh /new/ssa-begin.sh
exec /busybox switch_root /new /bin/bash /ssa-begin.sh
"#;

/// Shares the files below a folder, by the executable that came with QEMU until version 7, or its successor.
fn share(files: &Path, socket: &Path) -> Result<Child> {
    let (successor, original) = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd");
    let mut daemon;
    if Path::new(successor).is_file() {
        daemon = as_root(successor);
        daemon.arg("--shared-dir").arg(files).args(["--sandbox", "chroot", "--cache", "always"]);
    } else {
        ensure!(
            Path::new(original).is_file(),
            "there is no virtiofsd (Debian 12: qemu-system-common; later: virtiofsd)"
        );
        daemon = as_root(original);
        daemon.arg("-o").arg(format!("source={}", files.display()));
        daemon.args(["-o", "cache=always", "-o", "sandbox=chroot", "--thread-pool-size=2"]);
    }
    daemon.arg(format!("--socket-path={}", socket.display()));
    let child = daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let began = Instant::now();
    while !socket.exists() {
        ensure!(began.elapsed() < Duration::from_secs(10), "virtiofsd did not begin");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

fn qemu(kernel: &Kernel, accel: Accel, initrd: &Path, socket: &Path) -> Result<Child> {
    let mut qemu = as_root("qemu-system-x86_64");
    match accel {
        // It is tried, and may not work.
        Accel::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]).stderr(Stdio::null()),
        Accel::Tcg => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
    };
    qemu.args(["-smp", "2", "-m", &format!("{MEMORY}M")])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on")])
        .args(["-numa", "node,memdev=memory", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-chardev", &format!("socket,id=root,path={}", socket.display())])
        .args(["-device", "vhost-user-fs-pci,chardev=root,tag=root"]);
    let spawned = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    spawned.context("qemu-system-x86_64 can't be run")
}

/// A child that ends when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("pids are small"));
        // SIGTERM, which sudo passes on. One that hangs in the kernel, as with a broken /dev/kvm, is left behind.
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for _tick in 0..100 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                let _gone = kill(pid, signal);
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}
