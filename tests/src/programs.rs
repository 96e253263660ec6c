//! Which programs a test uses, and where they are.

use std::{
    env,
    fmt::{self, Display},
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::Sandbox;

/// Environment variable: the folder with our release binaries. Without it,
/// `release` in the target folder that the test was built in.
const BIN_DIR: &str = "CONTAINERD_TESTS_BIN";

/// Environment variable: file to which a line is added for each test that was
/// skipped; `hack/test` prints it at the end.
const SKIPPED: &str = "CONTAINERD_TESTS_SKIPPED";

/// Environment variable: if set, a program that is missing fails the test
/// instead of skipping it.
pub(crate) const STRICT: &str = "CONTAINERD_TESTS_STRICT";

/// Who made a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Debian's package `containerd`, written in Go.
    Debian,
    /// This workspace.
    Ours,
}

/// The daemon and the shim that a test runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// Whose `containerd` it is.
    pub daemon: Origin,
    /// Whose `containerd-shim-runc-v2` it is.
    pub shim: Origin,
    /// What makes the containers.
    pub runtime: Runtime,
}

/// An OCI runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The one inside our shim, which it uses if it is told of no other.
    Embedded,
    /// The original, Debian's.
    Runc,
    /// The one in C, with the same command line, Debian's too. It is called runc.
    Crun,
}

impl Pairing {
    /// All of it Debian's: shows that the test itself is right.
    pub const ORIGINAL: Self = Self::new(Origin::Debian, Origin::Debian);
    /// Our shim under Debian's daemon.
    pub const OUR_SHIM: Self = Self::new(Origin::Debian, Origin::Ours);
    /// Debian's shim under our daemon.
    pub const OUR_DAEMON: Self = Self::new(Origin::Ours, Origin::Debian);
    /// All of it ours.
    pub const OURS: Self = Self::new(Origin::Ours, Origin::Ours);
    /// All of it ours, but for runc.
    pub const OURS_WITH_RUNC: Self = Self { runtime: Runtime::Runc, ..Self::OURS };
    /// All of it ours, with crun in the place of runc.
    pub const OURS_WITH_CRUN: Self = Self { runtime: Runtime::Crun, ..Self::OURS };

    const fn new(daemon: Origin, shim: Origin) -> Self {
        let runtime = match shim {
            Origin::Ours => Runtime::Embedded,
            Origin::Debian => Runtime::Runc,
        };
        Self { daemon, shim, runtime }
    }

    /// Does our shim have to be told which runtime to call?
    pub(crate) fn names_runtime(&self) -> bool {
        self.shim == Origin::Ours && self.runtime != Runtime::Embedded
    }
}

impl Display for Pairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "daemon {:?}, shim {:?}, {:?}", self.daemon, self.shim, self.runtime)
    }
}

/// The folder with our release binaries.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = env::var_os(BIN_DIR) {
        return dir.into();
    }
    profile_dir().with_file_name("release")
}

/// The folder with our binaries as they were built with the tests.
pub fn debug_dir() -> PathBuf {
    profile_dir().with_file_name("debug")
}

/// `<target>/debug` of `<target>/debug/deps/<test>`; of `<target>/release/measure`
/// it is `<target>/release`.
pub(crate) fn profile_dir() -> PathBuf {
    let test = env::current_exe().unwrap_or_default();
    let mut profile = test.parent().unwrap_or(Path::new("."));
    if profile.ends_with("deps") {
        profile = profile.parent().unwrap_or(profile);
    }
    profile.to_owned()
}

/// crun, whether it is there or not.
pub(crate) const CRUN: &str = "/usr/bin/crun";

/// Why no test can run with crun here, if none can.
///
/// # Panics
/// It is not installed, and the run is a strict one.
pub fn obstacle_to_crun() -> Option<String> {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    if let Some(reason) = obstacle(&[Origin::Ours]) {
        return Some(reason);
    }
    if !Path::new(CRUN).exists() {
        assert!(env::var_os(STRICT).is_none(), "{CRUN} is not installed");
        return Some(format!("{CRUN} is not installed"));
    }
    let try_it = || Sandbox::new().and_then(|sandbox| sandbox.hide_second_cgroup_tree());
    let refused = REFUSED.get_or_init(|| try_it().err().map(|error| format!("{error:#}")));
    refused.as_ref().map(|reason| format!("crun refuses the cgroups of this machine: {reason}"))
}

/// The path of a program, whether it is there or not.
pub fn program(origin: Origin, name: &str) -> PathBuf {
    match origin {
        Origin::Debian => Path::new("/usr/bin").join(name),
        Origin::Ours => bin_dir().join(name),
    }
}

/// Says on standard error and in the list of `hack/test` that `test` does not
/// run on this machine, and why.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    let Some(list) = env::var_os(SKIPPED) else { return };
    let line = format!("{test}: {reason}\n");
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&list)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot write {}: {error}", list.display());
    }
}

/// Why tests with `origins` cannot run here, if they cannot.
///
/// # Panics
/// There is a reason, and the run is a strict one.
pub(crate) fn obstacle(origins: &[Origin]) -> Option<String> {
    let reason = missing(origins)?;
    assert!(env::var_os(STRICT).is_none(), "{reason}");
    Some(reason)
}

fn missing(origins: &[Origin]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    let mut needed = vec!["/usr/sbin/runc", "/bin/busybox", "/usr/bin/nsenter"];
    if origins.contains(&Origin::Debian) {
        needed.extend(["/usr/bin/containerd", "/usr/bin/ctr", "/usr/bin/containerd-shim-runc-v2"]);
    }
    let absent = needed.into_iter().find(|path| !Path::new(path).exists())?;
    Some(format!("{absent} is not installed"))
}
