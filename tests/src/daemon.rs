//! A daemon process: started, awaited until it is ready, killed, started again.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
    sync::watch,
};

use crate::{
    Origin, Pairing, Runtime, Sandbox, bin_dir, debug_dir, proc, program, programs::CRUN,
    time::within,
};

/// Plugins of Debian's daemon that the suite does not use: they look for
/// tools, devices and networks of the machine.
const DISABLED_PLUGINS: [&str; 8] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

/// One daemon with its folders; the process comes and goes.
pub struct Daemon {
    pairing: Pairing,
    config: PathBuf,
    socket: PathBuf,
    state: PathBuf,
    root: PathBuf,
    log: PathBuf,
    /// Programs that come before those of the machine.
    programs: PathBuf,
    /// Where its program is, if not where that of `pairing` is.
    build: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// A name for the next socket on which a daemon says that it is ready.
    notify: PathBuf,
    process: Option<Child>,
    /// Where the running daemon says what it does.
    status: Option<UnixDatagram>,
    /// How often the daemon became ready.
    starts: watch::Sender<u32>,
}

impl Daemon {
    /// Writes a configuration file; nothing is started yet.
    ///
    /// # Errors
    /// The file cannot be written, or our programs are not built.
    pub fn configure(sandbox: &Sandbox, pairing: Pairing) -> Result<Self> {
        for (origin, name) in
            [(pairing.daemon, "containerd"), (pairing.shim, "containerd-shim-runc-v2")]
        {
            let path = program(origin, name);
            ensure!(path.exists(), "no {}: run cargo build --release first", path.display());
        }
        let daemon = Self {
            pairing,
            config: sandbox.path("config.toml"),
            socket: sandbox.path("c.sock"),
            state: sandbox.state(),
            root: sandbox.path("root"),
            log: sandbox.path("daemon.log"),
            programs: sandbox.path("programs"),
            build: None,
            environment: Vec::new(),
            notify: sandbox.path("notify.sock"),
            process: None,
            status: None,
            starts: watch::Sender::new(0),
        };
        let config = format!(
            "version = 2\n\
             root = {:?}\n\
             state = {:?}\n\
             disabled_plugins = {DISABLED_PLUGINS:?}\n\
             [grpc]\n\
             address = {:?}\n\
             [debug]\n\
             level = \"debug\"\n\
             # The original collects what nothing refers to a moment after its start.\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\n\
             startup_delay = \"1h\"\n",
            daemon.root, daemon.state, daemon.socket
        );
        fs::write(&daemon.config, config)?;
        fs::create_dir(&daemon.programs)?;
        if pairing.runtime == Runtime::Crun {
            sandbox.hide_second_cgroup_tree()?;
            symlink(CRUN, daemon.programs.join("runc"))?;
        }
        Ok(daemon)
    }

    /// Whose daemon and shim they are.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// From the next start on it is the daemon of `origin`, in the same folders.
    pub fn switch_to(&mut self, origin: Origin) {
        self.pairing.daemon = origin;
    }

    /// From the next start on it is our daemon as it was built beside the tests,
    /// with all places at which it can be told to die.
    ///
    /// # Errors
    /// It was not built.
    pub fn use_debug_build(&mut self) -> Result<()> {
        let path = debug_dir().join("containerd");
        ensure!(path.exists(), "no {}: run cargo build -p containerd-server first", path.display());
        self.build = Some(path);
        Ok(())
    }

    /// From the next start on it has only these environment variables of its own.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.environment = owned.collect();
    }

    /// How it ended by itself, if it did. It can be started again then.
    ///
    /// # Errors
    /// Nobody knows.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.process else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// The gRPC socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The configuration file; a test may change it between two starts.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The folder with programs that come before those of the machine.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The `state` folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The `root` folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder with the bundles of a namespace.
    pub fn bundles(&self, namespace: &str) -> PathBuf {
        self.state.join("io.containerd.runtime.v2.task").join(namespace)
    }

    /// All that the daemon has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process id, while a daemon runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Child::id)
    }

    /// Changes each time that the daemon has become ready.
    pub(crate) fn starts(&self) -> watch::Receiver<u32> {
        self.starts.subscribe()
    }

    /// A command that runs this daemon's program with this configuration.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn command(&self, sandbox: &Sandbox) -> Result<Command> {
        let log = File::options().append(true).create(true).open(&self.log)?;
        let built = program(self.pairing.daemon, "containerd");
        let (command, arguments) = sandbox.command(self.build.as_deref().unwrap_or(&built));
        let mut command = Command::new(command);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .env("PATH", self.search_path())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        if self.pairing.daemon == Origin::Debian {
            // It never removes what it has restored from (containerd 1.6,
            // `services/tasks/local.go`).
            command.env("XDG_RUNTIME_DIR", sandbox.folder());
        }
        Ok(command)
    }

    /// Starts the daemon and returns when it says that it is ready, in the way
    /// it tells systemd (sd_notify(3)).
    ///
    /// # Errors
    /// It ended, or said nothing until the deadline.
    pub async fn start(&mut self, sandbox: &Sandbox) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let _ = fs::remove_file(&self.notify);
        let ready = UnixDatagram::bind(&self.notify)?;
        let mut child = self.command(sandbox)?.env("NOTIFY_SOCKET", &self.notify).spawn()?;
        within("start the daemon", async {
            let mut message = [0; 256];
            loop {
                tokio::select! {
                    status = child.wait() => bail!("the daemon ended: {}", status?),
                    received = ready.recv(&mut message) => {
                        let message = String::from_utf8_lossy(&message[..received?]).into_owned();
                        if message.lines().any(|line| line == "READY=1") {
                            return Ok(());
                        }
                    }
                }
            }
        })
        .await??;
        self.process = Some(child);
        self.status = Some(ready);
        self.starts.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Ends the daemon with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// There is none.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).await.map(drop)
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// There is none, or it has not ended until the deadline.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM).await
    }

    /// [`kill`](Self::kill), then [`start`](Self::start).
    ///
    /// # Errors
    /// As those have.
    pub async fn crash(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.kill().await?;
        self.start(sandbox).await
    }

    async fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut child = self.process.take().context("no daemon runs")?;
        if let Some(pid) = child.id() {
            proc::signal(pid, signal);
        }
        within("end the daemon", child.wait()).await?.context("wait for the daemon")
    }

    /// Debian's daemon finds shims by PATH only, so our folder comes first
    /// when it is to run ours. Our daemon looks beside itself.
    fn search_path(&self) -> String {
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let own = self.programs.display();
        match self.pairing.shim {
            Origin::Debian => format!("{own}:{system}"),
            Origin::Ours => format!("{own}:{}:{system}", bin_dir().display()),
        }
    }
}
