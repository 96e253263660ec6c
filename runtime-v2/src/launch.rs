//! Finds shim binaries and runs their subcommands `start`, `delete` and
//! `-info` (containerd, `core/runtime/v2/README.md`).

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use protobuf::Message;
use shim_protocol::{
    Context, Error, ErrorKind, Result,
    proto::bootstrap::{BootstrapParams, LogLevel},
    rpc::BY_DESCRIPTOR,
};
use tokio::process::Command;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::{
    Any, Deleted, ManagerConfig, RuntimeInfo,
    address::Bootstrap,
    bundle::Bundle,
    command::run,
    convert,
    program::{Candidate, Program, Programs},
};

/// A shim that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// How to reach it.
    pub(crate) bootstrap: Bootstrap,
    /// It is known to be our own kind of shim.
    pub(crate) is_ours: bool,
}

/// Runs shim binaries.
pub(crate) struct Launcher {
    config: Arc<ManagerConfig>,
    ourselves: PathBuf,
    programs: Arc<Programs>,
    work: TaskTracker,
}

impl Launcher {
    /// Runs them with the addresses and limits of `config`. What it finds out
    /// about them in the background, it does as part of `work`.
    pub(crate) fn new(config: Arc<ManagerConfig>, work: TaskTracker) -> Self {
        // Only a /proc that is not mounted keeps us from knowing our own path;
        // shims then look for the name on PATH.
        let ourselves = env::current_exe().unwrap_or_else(|_| "containerd".into());
        Self { config, ourselves, programs: Arc::default(), work }
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
    ) -> Result<Started> {
        let options_only = convert::options_to_stdin(options)?;
        let program = self.program(binary);
        let output = match self.run_start(&program, bundle, &options_only).await {
            Err(refusal) if refusal.kind() == ErrorKind::Unknown => {
                let parameters = self.bootstrap_parameters(bundle, options)?;
                self.run_start(&program, bundle, &parameters).await.map_err(|_| refusal)
            }
            output => output,
        };
        let output = output.context("start shim", binary.display())?;
        let bootstrap = Bootstrap::parse(&output).context("start shim", binary.display())?;
        Ok(Started { bootstrap, is_ours: program.is_ours() })
    }

    /// Finds out, in the background, how to execute the shim of a runtime, so
    /// that the first start knows. One that is not installed is none.
    pub(crate) fn look_at(&self, runtime: &str) {
        if let Ok(binary) = self.find(runtime) {
            self.program(&binary);
        }
    }

    /// How to execute a shim. What is found out of one that was not seen before
    /// serves the next start.
    fn program(&self, binary: &Path) -> Program {
        let (program, candidate) = self.programs.get(binary);
        if let Some(candidate) = candidate {
            let limit = self.config.timeouts.load;
            let (programs, path) = (self.programs.clone(), binary.to_owned());
            self.work.spawn(async move {
                match can_be_executed_by_descriptor(&candidate, limit).await {
                    Ok(true) => programs.prefer(candidate),
                    Ok(false) => {}
                    Err(error) => {
                        debug!(error = %error.report(), "a shim does not tell");
                        programs.forget_after(&path, &error);
                    }
                }
            });
        }
        program
    }

    async fn run_start(&self, program: &Program, bundle: &Bundle, input: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.command(program, bundle);
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
        let mut command = self.command(&Program::at(binary), bundle);
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
        let input = convert::options_to_stdin(options)?;
        let info = info(&Program::at(binary), &input, self.config.timeouts.load).await;
        info.context("run -info of shim", binary.display())
    }

    fn command(&self, program: &Program, bundle: &Bundle) -> Command {
        let mut command = program.command();
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

/// Asks exactly the file that will be executed. One that does not know the
/// question, or is a script and so cannot be found by its interpreter, fails.
async fn can_be_executed_by_descriptor(candidate: &Candidate, limit: Duration) -> Result<bool> {
    let info = info(&candidate.program, &[], limit).await?;
    Ok(info.annotations.get(BY_DESCRIPTOR).is_some_and(|answer| answer == "true"))
}

async fn info(program: &Program, options: &[u8], limit: Duration) -> Result<RuntimeInfo> {
    let mut command = program.command();
    command.arg("-info");
    convert::info_from_stdout(&run(command, options, limit).await?)
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
