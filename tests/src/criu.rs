//! CRIU, and a crun that knows it, from later Debian releases than the one that the
//! tests run on.
//!
//! Each is installed into a root of its own below the target folder, once, and is
//! run with the libraries that are there.

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Bed, Sandbox, eventually,
    programs::{STRICT, profile_dir},
};

/// The program that makes roots.
const DEBOOTSTRAP: &str = "/usr/sbin/debootstrap";
/// What it knows about releases.
const SCRIPTS: &str = "/usr/share/debootstrap";
/// A release that each debootstrap knows. All are made in the same way.
const KNOWN: &str = "sid";
/// Folder of the roots in the target folder.
const FOLDER: &str = "tests-criu";
/// Where a root has its libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// A program that is not of this machine's release.
pub struct Program {
    release: &'static str,
    packages: &'static str,
    path: &'static str,
}

/// CRIU 4.2 is the first that writes sockets to disk on Linux 6.16 (criu, issue
/// 2705); Debian 12's does nothing at all on Linux 6.13.
pub const CRIU: Program = Program { release: "forky", packages: "criu", path: "usr/sbin/criu" };

/// Debian 12's is built without CRIU. Since 1.24 it brings nothing back that has
/// masked folders, unless its state is in the default place (crun, pull request
/// 2239); this one is older.
pub const CRUN: Program =
    Program { release: "trixie", packages: "crun,libcriu2", path: "usr/bin/crun" };

/// The roots with both programs.
#[derive(Debug)]
pub struct Roots(PathBuf);

impl Roots {
    /// The roots, made at the first call; why there are none, if they cannot be
    /// had.
    ///
    /// # Panics
    /// debootstrap is not installed, and the run is a strict one.
    pub fn prepare() -> Result<&'static Self, &'static str> {
        static MADE: OnceLock<Result<Roots, String>> = OnceLock::new();
        let made = MADE.get_or_init(|| make().map_err(|error| format!("{error:#}")));
        made.as_ref().map_err(String::as_str)
    }

    /// Puts a program before those of the machine, under a name that may be
    /// another.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn install(&self, program: &Program, sandbox: &Sandbox, name: &str) -> Result<()> {
        let root = self.0.join(program.release);
        let (root, path) = (root.display(), program.path);
        let libraries = LIBRARIES.map(|path| format!("{root}/{path}")).join(":");
        let script = format!(
            "#!/bin/sh\n\
             exec {root}/lib64/ld-linux-x86-64.so.2 --library-path {libraries} \
             {root}/{path} \"$@\"\n"
        );
        sandbox.executable(&format!("programs/{name}"), &script)?;
        Ok(())
    }
}

fn make() -> Result<Roots> {
    let folder = profile_dir().parent().context("no target folder")?.join(FOLDER);
    fs::create_dir_all(&folder)?;
    // Tests of several programs may want them at once.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    for program in [&CRIU, &CRUN] {
        let root = folder.join(program.release);
        if !root.exists() {
            let made = bootstrap(&folder, program, &root, &lock);
            made.with_context(|| format!("Debian's {} cannot be had", program.packages))?;
        }
    }
    Ok(Roots(folder))
}

fn bootstrap(folder: &Path, program: &Program, root: &Path, lock: &File) -> Result<()> {
    if !Path::new(DEBOOTSTRAP).exists() {
        assert!(env::var_os(STRICT).is_none(), "{DEBOOTSTRAP} is not installed");
        bail!("{DEBOOTSTRAP} is not installed");
    }
    let (draft, scripts) = (folder.join("draft"), folder.join("scripts"));
    for leftover in [&draft, &scripts] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)?;
        }
    }
    copy_scripts(&scripts, program.release)?;
    // What it mounts goes with its mount namespace, also if it is killed. It holds
    // the lock as long as it runs, also if this program does not.
    let made = Command::new("unshare")
        .args(["--mount", DEBOOTSTRAP, "--variant=minbase"])
        .args([&format!("--include={}", program.packages), program.release])
        .arg(&draft)
        .env("DEBOOTSTRAP_DIR", &scripts)
        .stdin(Stdio::from(lock.try_clone()?))
        .output()?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stdout);
        bail!("{}", said.lines().last().unwrap_or("debootstrap says nothing"));
    }
    fs::remove_dir_all(&scripts)?;
    fs::rename(&draft, root)?;
    Ok(())
}

/// What debootstrap knows, and that the release is made like the one it knows.
fn copy_scripts(to: &Path, release: &str) -> Result<()> {
    let copied = Command::new("cp").args(["-r", "--", SCRIPTS]).arg(to).status()?;
    ensure!(copied.success(), "cannot copy {SCRIPTS}");
    let script = to.join("scripts").join(release);
    if !script.exists() {
        symlink(KNOWN, script)?;
    }
    Ok(())
}

/// A CRIU that makes a file when it begins, and goes on when it may.
pub struct Gate {
    begun: PathBuf,
    gate: PathBuf,
}

impl Gate {
    /// Before the CRIU that a daemon finds.
    ///
    /// # Errors
    /// There is none; those of the disk.
    pub fn before_criu(bed: &Bed) -> Result<Self> {
        let roots = Roots::prepare().map_err(anyhow::Error::msg)?;
        roots.install(&CRIU, &bed.sandbox, "criu-itself")?;
        let (begun, gate) = (bed.sandbox.path("begun"), bed.sandbox.path("gate"));
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU)?;
        // runc starts it several times.
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = swrk ]; then touch {}; read line < {}; fi\nexec {} \"$@\"\n",
            begun.display(),
            gate.display(),
            bed.daemon.programs().join("criu-itself").display()
        );
        bed.sandbox.executable("programs/criu", &script)?;
        Ok(Self { begun, gate })
    }

    /// Waits until CRIU is there.
    ///
    /// # Errors
    /// It does not come.
    pub async fn reached(&self) -> Result<()> {
        eventually(async || self.begun.try_exists()?.then_some(()).context("it has not begun"))
            .await
    }

    /// Lets it go on, and a hundred others, as long as there is what this gives: each
    /// takes a line, and no line is lost while somebody has the FIFO open.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(&self) -> Result<File> {
        let mut gate = File::options().read(true).write(true).open(&self.gate)?;
        gate.write_all("go\n".repeat(100).as_bytes())?;
        Ok(gate)
    }
}
