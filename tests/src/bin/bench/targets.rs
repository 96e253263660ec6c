//! Who is measured: contenders, and the daemons that stand for them.

use std::{
    borrow::Cow,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::{
    runc::v1::Options as RuntimeOptions,
    services::{
        containers::v1::{DeleteContainerRequest, ListContainersRequest},
        namespaces::v1::DeleteNamespaceRequest,
    },
    to_any,
};
use nix::sys::signal::Signal;
use tests::{Api, Bed, Events, Load, Pairing, Process, Sandbox, Spec, eventually, leaks, proc};
use tokio::{
    net::UnixStream,
    signal::unix::{Signal as Signals, SignalKind, signal},
};
use tonic::{Code, Status};

use crate::{
    Options,
    cycles::{Turn, side_by_side},
};

/// One line of a table: a daemon, a shim, and the OCI runtime that it is told.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// How tables call it.
    pub(crate) name: &'static str,
    /// Its programs; of no matter for a daemon that runs already.
    pairing: Pairing,
    /// `BinaryName` in the runtime's options; if empty the shim decides.
    binary_name: Cow<'static, str>,
}

impl Contender {
    /// With what each daemon does when it is told nothing.
    pub(crate) const DAEMONS: [Self; 2] =
        [Self::of("this", Pairing::OURS, ""), Self::of("containerd 1.6", Pairing::ORIGINAL, "")];

    /// OCI runtimes under our daemon; the first is what the shim has by itself.
    pub(crate) const RUNTIMES: [Self; 3] = [
        Self::of("this", Pairing::OURS, ""),
        Self::of("this with runc", Pairing::OURS, "runc"),
        Self::of("this with crun", Pairing::OURS_WITH_CRUN, "crun"),
    ];

    const fn of(name: &'static str, pairing: Pairing, binary_name: &'static str) -> Self {
        Self { name, pairing, binary_name: Cow::Borrowed(binary_name) }
    }

    /// The daemon that runs already.
    pub(crate) fn running(options: &Options) -> Self {
        let binary_name = options.binary_name.clone().unwrap_or_default();
        Self { binary_name: binary_name.into(), ..Self::of("running", Pairing::OURS, "") }
    }

    /// True if it does not work where crun does not.
    pub(crate) fn needs_crun(&self) -> bool {
        self.pairing.runtime == tests::Runtime::Crun
    }

    fn give(&self, spec: Spec) -> Spec {
        if self.binary_name.is_empty() {
            return spec;
        }
        let binary_name = self.binary_name.clone().into_owned();
        spec.options(to_any(&RuntimeOptions { binary_name, ..RuntimeOptions::default() }))
    }
}

/// Where contenders are measured, and what ends that early.
pub(crate) struct Field {
    /// Socket of a daemon that runs already, and the runtime to ask it for.
    running: Option<(PathBuf, String)>,
    signals: [Signals; 2],
}

/// Says that no new work is to be begun.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// For good.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if it was said.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Field {
    /// From now on signals end the program only after it has cleaned up.
    ///
    /// # Errors
    /// No handlers.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            running: options.address.clone().map(|socket| (socket, options.runtime.clone())),
            signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?],
        })
    }

    /// Runs `work` with daemons of its own for these contenders. Whatever its
    /// end, nothing that was started is left.
    ///
    /// # Errors
    /// Those of `work`; the program was told to end; something is left.
    pub(crate) async fn with(
        &mut self,
        contenders: &[Contender],
        work: impl AsyncFnOnce(&mut [Target]) -> Result<()>,
    ) -> Result<()> {
        let mut targets = Vec::new();
        let (running, stop) = (self.running.clone(), Stop::default());
        let result = self.until_told(running.is_some().then_some(&stop), async {
            for contender in contenders {
                let started = Target::start(contender, running.as_ref(), stop.clone()).await;
                targets.push(started.with_context(|| format!("start {}", contender.name))?);
            }
            work(&mut targets).await
        });
        let result = result.await;
        let mut ended = Ok(());
        for target in targets {
            let name = target.contender.name;
            let end = target.end(result.is_ok()).await;
            ended = ended.and(end.with_context(|| format!("clean up after {name}")));
        }
        match (result, ended) {
            (Err(error), Err(also)) => Err(error.context(format!("and {also:#}"))),
            (result, ended) => result.and(ended),
        }
    }

    /// `work` until it ends or the program is told to end. With `stop` it is
    /// stopped then, and only given up when the program is told once more.
    ///
    /// # Errors
    /// Those of `work`; the program was told to end.
    pub(crate) async fn until_told(
        &mut self,
        stop: Option<&Stop>,
        work: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let mut work = pin!(work);
        tokio::select! {
            result = &mut work => return result,
            () = self.told() => {}
        }
        if let Some(stop) = stop {
            stop.set();
            tokio::select! {
                result = &mut work => result.context("interrupted")?,
                () = self.told() => {}
            }
        }
        bail!("interrupted")
    }

    async fn told(&mut self) {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// A daemon that is measured.
pub(crate) struct Target {
    /// As what.
    pub(crate) contender: Contender,
    place: Place,
    stop: Stop,
}

enum Place {
    /// Started by us. Dropping it removes everything in it.
    Own(Box<Bed>),
    /// Somebody else's.
    Running(Box<Running>),
}

/// A daemon that runs already.
struct Running {
    api: Api,
    socket: PathBuf,
    /// What it is asked for.
    runtime: String,
    /// Only for its root filesystem and its names.
    sandbox: Sandbox,
}

impl Target {
    async fn start(
        contender: &Contender,
        running: Option<&(PathBuf, String)>,
        stop: Stop,
    ) -> Result<Self> {
        let place = match running.cloned() {
            None => Place::Own(Box::new(Bed::start(contender.pairing).await?)),
            Some((socket, runtime)) => {
                let sandbox = Sandbox::new()?;
                let api = Api::connect(&socket, sandbox.namespace()).await?;
                Place::Running(Box::new(Running { api, socket, runtime, sandbox }))
            }
        };
        Ok(Self { contender: contender.clone(), place, stop })
    }

    /// What it takes to make containers.
    pub(crate) fn load(&self) -> Load {
        match &self.place {
            Place::Own(bed) => {
                let spec = self.contender.give(bed.spec("", ""));
                Load::new(bed.api().clone(), spec, bed.sandbox.cgroup())
            }
            Place::Running(running) => {
                let rootfs = running.sandbox.rootfs().display().to_string();
                let spec = Spec::shell("", &rootfs, "", &running.runtime);
                let spec = self.contender.give(spec);
                Load::new(running.api.clone(), spec, running.sandbox.cgroup())
            }
        }
    }

    /// [`side_by_side`] with what it takes to make containers.
    ///
    /// # Errors
    /// As that has.
    pub(crate) async fn side_by_side<T, W, F>(
        &self,
        concurrency: usize,
        first: usize,
        count: usize,
        work: W,
    ) -> Result<Turn<T>>
    where
        T: Send + 'static,
        W: Fn(Load, usize) -> F + Clone + Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let load = self.load();
        let work = move |number| work(load.clone(), number);
        side_by_side(&self.stop, concurrency, first, count, work).await
    }

    /// The containerd namespace of the containers.
    pub(crate) fn namespace(&self) -> &str {
        match &self.place {
            Place::Own(bed) => bed.namespace(),
            Place::Running(running) => running.sandbox.namespace(),
        }
    }

    /// A subscriber to all events.
    ///
    /// # Errors
    /// None arrive.
    pub(crate) async fn events(&self) -> Result<Events> {
        match &self.place {
            Place::Own(bed) => bed.events().await,
            Place::Running(running) => Events::subscribe_at(&running.socket).await,
        }
    }

    /// What the daemon says it is.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) async fn version(&self) -> Result<String> {
        let answer = self.load().api().version().version(()).await?.into_inner();
        Ok(answer.version)
    }

    /// The daemon's process: of one that we did not start, who has made the
    /// socket (`SO_PEERCRED` of unix(7)).
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn daemon(&self) -> Result<u32> {
        match &self.place {
            Place::Own(bed) => bed.daemon.pid().context("no daemon"),
            Place::Running(running) => {
                let peer = UnixStream::connect(&running.socket).await?.peer_cred()?;
                Ok(u32::try_from(peer.pid().context("a socket without a process")?)?)
            }
        }
    }

    /// The shims of the containers.
    pub(crate) fn shims(&self) -> Vec<u32> {
        proc::shims_in(self.namespace())
    }

    /// The daemon, if it is ours to kill.
    pub(crate) fn own(&mut self) -> Option<&mut Bed> {
        match &mut self.place {
            Place::Own(bed) => Some(bed),
            Place::Running(_) => None,
        }
    }

    /// Kills, removes and checks: after a run that went well nothing may be left
    /// in the first place.
    async fn end(self, well: bool) -> Result<()> {
        match self.place {
            Place::Own(bed) if well => leaks::check(&bed.sandbox, &bed.daemon).await,
            Place::Own(_) => Ok(()),
            Place::Running(running) => clear(&running.api, running.sandbox.namespace(), well).await,
        }
    }
}

/// Removes what is left in a namespace, and the namespace itself.
async fn clear(api: &Api, namespace: &str, well: bool) -> Result<()> {
    let list = api.containers().list(ListContainersRequest::default()).await?.into_inner();
    // A create that was given up may still make a task, which then has a shim; and
    // without its record a task cannot be removed.
    eventually(async || {
        for record in &list.containers {
            let removed = remove_task(&Process::of(api, &record.id)).await;
            removed.with_context(|| format!("remove task {}", record.id))?;
        }
        ensure!(proc::shims_in(namespace).is_empty(), "shims are left in {namespace}");
        Ok(())
    })
    .await?;
    for record in &list.containers {
        let request = DeleteContainerRequest { id: record.id.clone() };
        allow_absent(api.containers().delete(request).await.map(drop))?;
    }
    let request = DeleteNamespaceRequest { name: namespace.into() };
    allow_absent(api.namespaces().delete(request).await.map(drop))?;
    let count = list.containers.len();
    ensure!(!well || count == 0, "{count} containers were left");
    Ok(())
}

/// Whether it runs, has ended, or is not there at all.
async fn remove_task(task: &Process) -> Result<()> {
    match task.kill(Signal::SIGKILL).await {
        Ok(()) => _ = task.wait().await?,
        Err(status) => allow_absent(Err(status))?,
    }
    allow_absent(task.delete().await.map(drop))
}

fn allow_absent(result: Result<(), Status>) -> Result<()> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        result => Ok(result?),
    }
}
