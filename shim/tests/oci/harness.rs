//! Containers made by `containerd-shim oci`, as root and with busybox; a test
//! says that it is skipped where these are missing.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// The program under test.
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim");

/// A bundle and a state folder. However the test ends, nothing of its container
/// stays.
pub(crate) struct Bed {
    dir: tempfile::TempDir,
    /// The container's name.
    pub(crate) id: String,
    /// What `config.json` will be.
    pub(crate) config: Value,
}

/// Puts a program somewhere. By another process: a child of another test may hold
/// what this one writes open, and it could not be executed.
pub(crate) fn install(from: &Path, to: &Path) {
    let installed = Command::new("install").arg(from).arg(to).status().unwrap();
    assert!(installed.success());
}

impl Bed {
    /// A container that runs `script` in busybox's shell; `None`, and a word on
    /// why, where that is not possible.
    pub(crate) fn new(name: &str, script: &str) -> Option<Self> {
        let busybox = Path::new("/bin/busybox");
        if !nix::unistd::geteuid().is_root() || !busybox.exists() {
            skip(name, "needs root and busybox");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        install(busybox, &bin.join("busybox"));
        let list = Command::new(busybox).arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let id = format!("oci-{name}-{}", std::process::id());
        let mount = |point: &str, kind: &str, options: &[&str]| json!({"destination": point, "type": kind, "source": kind, "options": options});
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": "rootfs"},
            "hostname": "box",
            "mounts": [
                mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
            ],
            "linux": {
                "cgroupsPath": format!("/containerd-shim-test-{id}"),
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                    {"type": "network"},
                ],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        });
        Some(Self { dir, id, config })
    }

    /// The same with a value at a JSON pointer; missing objects are made.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.config;
        for key in pointer.split('/').skip(1) {
            place = match place {
                Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
                place => &mut place[key],
            };
        }
        *place = value;
        self
    }

    /// The same with one more value in the list at a JSON pointer.
    pub(crate) fn add(mut self, pointer: &str, value: Value) -> Self {
        self.config.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    /// A path in the bundle.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command line, up to the runtime's own words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command.arg("oci").arg("--root").arg(self.path("state")).args(words);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn write(&self) {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
    }

    /// Runs words that should succeed; what they print.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs words that should fail; what they say.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(!output.status.success(), "{words:?} succeeded: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Runs the container to its end.
    pub(crate) fn run(&self) -> Output {
        self.write();
        self.command(&["run", &self.id]).output().unwrap()
    }

    /// Runs the container to its end, which should be a good one; its output.
    pub(crate) fn output(&self) -> String {
        let output = self.run();
        assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a container that cannot be made; why, and that nothing is left.
    pub(crate) fn refusal(&self) -> String {
        let output = self.run();
        assert!(!output.status.success(), "it ran: {}", text(&output.stdout));
        assert_eq!(self.ok(&["list", "--quiet"]), "");
        assert!(self.groups().is_empty(), "{:?}", self.groups());
        text(&output.stderr)
    }

    /// Creates the container, with its output in the file `output`.
    pub(crate) fn create(&self) {
        self.write();
        let output = fs::File::create(self.path("output")).unwrap();
        let mut command = self.command(&["create", &self.id]);
        let status = command.stdout(output.try_clone().unwrap()).stderr(output).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(self.path("output")).unwrap());
    }

    /// Creates and starts the container.
    pub(crate) fn start(&self) {
        self.create();
        self.ok(&["start", &self.id]);
    }

    /// Runs `script` in the container; what it prints.
    pub(crate) fn exec(&self, script: &str) -> String {
        self.ok(&["exec", &self.id, "/bin/sh", "-c", script])
    }

    /// What the runtime says of the container.
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    /// The pid of init.
    pub(crate) fn pid(&self) -> u64 {
        self.state()["pid"].as_u64().unwrap()
    }

    /// A file of the container's group, in whichever hierarchy has it.
    pub(crate) fn limit(&self, file: &str) -> Option<String> {
        let files = self.groups().into_iter().map(|group| group.join(file));
        let text = files.filter(|file| file.exists()).map(|file| fs::read_to_string(file).unwrap());
        text.map(|text| text.trim().to_owned()).next()
    }

    /// The container's groups.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let path = self.config["linux"]["cgroupsPath"].as_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let points = points.map(|line| line.split(' ').nth(4).unwrap());
        let groups = points.map(|point| Path::new(point).join(path.trim_start_matches('/')));
        groups.filter(|group| group.exists()).collect()
    }

    /// Waits for what becomes true without a notice.
    pub(crate) fn until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !done() {
            assert!(std::time::Instant::now() < deadline, "never: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let removed = self.command(&["delete", "--force", &self.id]).output().unwrap();
        if !std::thread::panicking() {
            assert!(removed.status.success(), "{}", text(&removed.stderr));
            assert!(self.groups().is_empty(), "left: {:?}", self.groups());
        }
    }
}

/// Says that a test is skipped, and why: in a file that `hack/test` prints at the
/// end, if it is named.
pub(crate) fn skip(name: &str, why: &str) {
    eprintln!("{name}: skipped, {why}");
    let Some(path) = std::env::var_os("CONTAINERD_TESTS_SKIPPED") else { return };
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| writeln!(file, "{name}: {why}")).unwrap();
}

/// What a program printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
