//! Finds shim binaries and runs their subcommands `start`, `delete` and
//! `-info` (containerd, `core/runtime/v2/README.md`).

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use protobuf::Message;
use shim_protocol::{
    Context, Error, ErrorKind, Result,
    proto::bootstrap::{BootstrapParams, LogLevel},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use crate::{
    Any, Deleted, ManagerConfig, RuntimeInfo, address::Bootstrap, bundle::Bundle, convert,
};

/// The most that a shim may print, in bytes. Addresses are short; `-info` of a
/// runtime with many features is the longest answer.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// The most of its error output that is quoted, in bytes.
const QUOTE_LIMIT: usize = 1024;
/// How long output may trail behind the end of the process. A child that it
/// left behind may hold the pipe for ever.
const TRAIL_LIMIT: Duration = Duration::from_millis(100);

/// Runs shim binaries.
pub(crate) struct Launcher {
    config: Arc<ManagerConfig>,
    ourselves: PathBuf,
}

impl Launcher {
    /// Runs them with the addresses and limits of `config`.
    pub(crate) fn new(config: Arc<ManagerConfig>) -> Self {
        // Only a /proc that is not mounted keeps us from knowing our own path;
        // shims then look for the name on PATH.
        let ourselves = env::current_exe().unwrap_or_else(|_| "containerd".into());
        Self { config, ourselves }
    }

    /// Finds the shim of a runtime: an absolute path is taken as it is, a name
    /// becomes the name of a binary beside our own executable or on PATH.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed name, `NotFound` when it is not
    /// installed.
    pub(crate) fn find(&self, runtime: &str) -> Result<PathBuf> {
        let path = Path::new(runtime);
        if path.is_absolute() {
            return match is_executable(path) {
                true => Ok(path.to_owned()),
                false => Err(Error::not_found(format!("runtime {runtime:?}: no such program"))),
            };
        }
        let name = binary_name(runtime).ok_or_else(|| {
            Error::invalid(format!(
                "runtime {runtime:?} is neither a name such as io.containerd.runc.v2 \
                 nor an absolute path"
            ))
        })?;
        let beside = self.ourselves.parent().map(Path::to_owned);
        let search = env::var_os("PATH").unwrap_or_default();
        beside
            .into_iter()
            .chain(env::split_paths(&search))
            .map(|folder| folder.join(&name))
            .find(|path| path.is_absolute() && is_executable(path))
            .ok_or_else(|| {
                Error::not_found(format!("runtime {runtime:?}: {name} is not installed"))
            })
    }

    /// Starts the shim of a bundle.
    ///
    /// What a shim reads depends on its age: the runtime options alone, or from
    /// containerd 2.3 on the bootstrap parameters, and nothing else. Either
    /// refuses the other's input before it has done anything, and the older
    /// form is the one that most shims know.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it does not answer in time, `FailedPrecondition`
    /// when its answer makes no sense, `Unknown` when it fails.
    pub(crate) async fn start(
        &self,
        binary: &Path,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<Bootstrap> {
        let options_only = convert::options_to_stdin(options)?;
        let output = match self.run_start(binary, bundle, &options_only).await {
            Err(refusal) if refusal.kind() == ErrorKind::Unknown => {
                let parameters = self.bootstrap_parameters(bundle, options)?;
                self.run_start(binary, bundle, &parameters).await.map_err(|_| refusal)
            }
            output => output,
        };
        let output = output.context("start shim", binary.display())?;
        Bootstrap::parse(&output).context("start shim", binary.display())
    }

    async fn run_start(&self, binary: &Path, bundle: &Bundle, input: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.command(binary, bundle);
        if self.config.debug {
            command.arg("-debug");
        }
        command.arg("start");
        run(command, input, self.config.timeouts.start).await
    }

    fn bootstrap_parameters(&self, bundle: &Bundle, options: Option<&Any>) -> Result<Vec<u8>> {
        let level = if self.config.debug { LogLevel::LOG_LEVEL_DEBUG } else { LogLevel::default() };
        let parameters = BootstrapParams {
            instance_id: bundle.id().to_string(),
            namespace: bundle.namespace().to_string(),
            log_level: level.into(),
            containerd_version: env!("CARGO_PKG_VERSION").into(),
            containerd_ttrpc_address: self.config.ttrpc_address.clone(),
            containerd_grpc_address: self.config.grpc_address.clone(),
            containerd_binary: convert::utf8(&self.ourselves)?,
            extensions: options.cloned().map(convert::extension).into_iter().collect(),
            ..Default::default()
        };
        parameters
            .write_to_bytes()
            .map_err(|e| Error::caused(ErrorKind::Internal, "encode bootstrap parameters", e))
    }

    /// Lets the shim's binary clean up what a dead shim left: the container
    /// and its mounts.
    ///
    /// # Errors
    /// As [`Launcher::start`]; `DataLoss` when its answer makes no sense.
    pub(crate) async fn delete(&self, binary: &Path, bundle: &Bundle) -> Result<Deleted> {
        let mut command = self.command(binary, bundle);
        command.arg("-bundle").arg(bundle.path()).arg("delete");
        let output = run(command, &[], self.config.timeouts.cleanup).await;
        let output = output.context("run delete of shim", binary.display())?;
        convert::deleted_from_stdout(&output).context("run delete of shim", binary.display())
    }

    /// Asks the shim's binary about itself.
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub(crate) async fn info(&self, binary: &Path, options: Option<&Any>) -> Result<RuntimeInfo> {
        let mut command = Command::new(binary);
        command.arg("-info");
        let input = convert::options_to_stdin(options)?;
        let output = run(command, &input, self.config.timeouts.load).await;
        let output = output.context("run -info of shim", binary.display())?;
        convert::info_from_stdout(&output).context("run -info of shim", binary.display())
    }

    fn command(&self, binary: &Path, bundle: &Bundle) -> Command {
        let mut command = Command::new(binary);
        command
            .current_dir(bundle.path())
            .args(["-namespace", bundle.namespace()])
            .args(["-address", &self.config.grpc_address])
            .arg("-publish-binary")
            .arg(&self.ourselves)
            .args(["-id", bundle.id()])
            .env("TTRPC_ADDRESS", &self.config.ttrpc_address)
            .env("GRPC_ADDRESS", &self.config.grpc_address)
            .env("NAMESPACE", bundle.namespace().as_str())
            // Version of this start contract, not of the task API.
            .env("MAX_SHIM_VERSION", "2")
            // Fewer threads in shims that are written in Go.
            .env("GOMAXPROCS", "2")
            // Readiness is ours to tell.
            .env_remove("NOTIFY_SOCKET")
            .envs(self.config.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// `a.b.name.version` becomes `containerd-shim-name-version`.
fn binary_name(runtime: &str) -> Option<String> {
    let parts: Vec<&str> = runtime.split('.').collect();
    let [.., name, version] = parts.as_slice() else { return None };
    let plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    parts.iter().all(plain).then(|| format!("containerd-shim-{name}-{version}"))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Runs a program with a deadline and hands back what it printed. One that
/// takes too long or prints too much is killed, with its process group.
async fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Vec<u8>> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().context("execute", "it")?;
    let deadline = Instant::now() + limit;
    let outcome = match timeout_at(deadline, converse(&mut child, input)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            ErrorKind::DeadlineExceeded,
            format!("no answer in {limit:?}, so it was killed"),
        )),
    };
    if outcome.is_err() {
        end(child).await;
    }
    outcome
}

/// Kills a program with its process group, and reaps it.
async fn end(mut child: Child) {
    // Once it has been reaped it has no id, and its group may be another's.
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
    if let Err(error) = killpg(Pid::from_raw(group), Signal::SIGKILL) {
        debug!(group, %error, "shim command had ended by itself");
    }
    if let Err(error) = child.wait().await {
        warn!(group, %error, "shim command cannot be reaped");
    }
}

async fn converse(child: &mut Child, input: &[u8]) -> Result<Vec<u8>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut printed, mut complaint) = (Vec::new(), Vec::new());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // It need not read what it does not want to know.
            if let Err(error) = stdin.write_all(input).await {
                debug!(%error, "shim command closed its input");
            }
        }
    };
    let (status, ()) = {
        let listen = async {
            let quiet = async {
                tokio::try_join!(collect(stdout, &mut printed), collect(stderr, &mut complaint))
            };
            tokio::pin!(quiet);
            tokio::select! {
                said = &mut quiet => { said?; wait(child).await }
                status = wait(child) => {
                    if let Ok(said) = timeout(TRAIL_LIMIT, quiet).await {
                        said?;
                    }
                    status
                }
            }
        };
        let (status, ()) = tokio::join!(listen, feed);
        (status?, ())
    };
    if !status.success() {
        let said = if complaint.trim_ascii().is_empty() { &printed } else { &complaint };
        let said = String::from_utf8_lossy(&said[..said.len().min(QUOTE_LIMIT)]);
        return Err(Error::new(ErrorKind::Unknown, format!("{status}: {}", said.trim())));
    }
    if !complaint.is_empty() {
        warn!(said = %String::from_utf8_lossy(&complaint).trim(), "shim command complains");
    }
    Ok(printed)
}

async fn wait(child: &mut Child) -> Result<ExitStatus> {
    child.wait().await.context("wait for", "it")
}

/// Reads to the end, but not without bounds.
async fn collect(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<()> {
    let Some(from) = from else { return Ok(()) };
    let limit = OUTPUT_LIMIT as u64 + 1;
    from.take(limit).read_to_end(into).await.context("read output of", "it")?;
    match into.len() > OUTPUT_LIMIT {
        true => Err(Error::precondition(format!("it printed more than {OUTPUT_LIMIT} bytes"))),
        false => Ok(()),
    }
}
