//! Serving: the life of the process that `start` leaves behind.

use std::{
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shim_protocol::{Context as _, Error, Id, Result, exits};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use ttrpc::asynchronous::{Server, transport::Listener};

use super::args::Args;
use crate::{
    bundle::Bundle,
    events::{Outbox, daemon::Endpoint, delivery},
    log,
    options::RuntimeOptions,
    reaper::Reaper,
    runtime::{
        Runtime,
        binary::{self, BinaryRuntime},
        embedded::{EmbeddedRuntime, Helpers, helper::Forked},
    },
    service,
    socket::{self, Bound},
    sys::process,
    task::{Context, Tasks},
};

/// Stack of the threads for what blocks: none of it goes deep.
const THREAD_STACK_BYTES: usize = 128 * 1024;
/// Most threads for what blocks.
const MAX_THREADS: usize = 16;
/// A thread that has nothing to do ends after this.
const THREAD_KEEP_ALIVE: Duration = Duration::from_millis(100);
/// How long work in the background may take to end once nothing needs it.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long events wait for the daemon after the end, if the exit that they
/// tell of can also be read from the bundle.
const RECORDED_LINGER: Duration = Duration::from_secs(60);
/// Pause after a failed accept, which is for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a serving shim is told.
#[derive(Debug)]
pub struct Config {
    /// The containerd namespace.
    pub namespace: Id,
    /// The container it was started for.
    pub id: Id,
    /// That container's bundle.
    pub bundle: Bundle,
    /// Path of the socket, to be removed at the end.
    pub path: PathBuf,
    /// The bound socket.
    pub listener: UnixListener,
    /// The first container is made by the runtime inside this program.
    pub is_embedded: bool,
    /// Where events go.
    pub ttrpc_address: Option<String>,
    /// Log debug messages too.
    pub debug: bool,
}

/// Serves until shut down.
///
/// # Errors
/// When the runtime, the reaper or the server cannot be set up.
pub fn run(config: Config) -> Result<()> {
    log::init(config.debug);
    // Nothing is here yet that a fork must not copy.
    let bundle = config.bundle.path();
    let helper = if config.is_embedded { Forked::new(bundle)? } else { None };
    process::trim_allocator();
    let runtime = runtime()?;
    let served = runtime.block_on(serve(config, helper));
    // All that matters has ended. Threads without work go with the process.
    runtime.shutdown_background();
    served
}

/// Serves in the foreground, on the socket that `-socket` names or the one
/// that `start` would bind.
///
/// # Errors
/// `AlreadyExists` when somebody serves there; else as [`run`].
pub fn foreground(args: Args) -> Result<()> {
    let namespace = Id::new("namespace", &args.namespace)?;
    let id = Id::new("container id", &args.id)?;
    let bundle = super::bundle(&args)?;
    let path = args.socket.unwrap_or_else(|| socket::path(None, &args.address, &namespace, &id));
    let Bound::New(socket) = socket::bind(&path)? else {
        return Err(Error::already_exists(format!("a shim serves at {}", path.display())));
    };
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").ok();
    let listener = socket.into_listener()?;
    let is_embedded = true;
    run(Config {
        namespace,
        id,
        bundle,
        path,
        listener,
        is_embedded,
        ttrpc_address,
        debug: args.debug,
    })
}

/// Runs a future on the shim's one thread.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(THREAD_STACK_BYTES)
        .max_blocking_threads(MAX_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .build()
        .context("start", "the async runtime")
}

async fn serve(config: Config, helper: Option<Forked>) -> Result<()> {
    let reaper = Reaper::start()?;
    let helpers = Arc::new(Helpers::new(Arc::clone(&reaper), helper));
    let outbox = Arc::new(Outbox::new(config.namespace.clone()));
    let daemon = Arc::new(Endpoint::new(config.ttrpc_address.as_deref()));
    let delivery = tokio::spawn({
        let (outbox, daemon) = (Arc::clone(&outbox), Arc::clone(&daemon));
        async move { delivery::run(&outbox, &*daemon).await }
    });
    let background = TaskTracker::new();
    let tasks = Arc::new(Tasks::new(Context {
        namespace: config.namespace.clone(),
        reaper: Arc::clone(&reaper),
        outbox: Arc::clone(&outbox),
        runtimes: runtimes(config.namespace, reaper, Arc::clone(&helpers)),
        background: background.clone(),
    }));
    config.listener.set_nonblocking(true).context("set up", "the socket")?;
    let listener =
        tokio::net::UnixListener::from_std(config.listener).context("serve", "socket")?;
    let mut server = Server::new()
        .add_listener(accept(listener, Arc::clone(&outbox)))
        .register_service(service::services(&tasks, &outbox, &daemon));
    server.start().await.map_err(Error::from).context("serve", config.path.display())?;
    if config.is_embedded {
        // While the daemon connects.
        helpers.prepare();
    }
    info!("shim of {} in {} serves", config.id, outbox.namespace());

    shut_down(&tasks).await?;
    // From here on another shim may take the name.
    if let Err(e) = socket::remove(&config.path) {
        warn!("{}", e.report());
    }
    server.shutdown().await.map_err(Error::from).context("close", config.path.display())?;
    background.close();
    if timeout(CLEANUP_TIMEOUT, background.wait()).await.is_err() {
        warn!("{} tasks did not end", background.len());
    }
    outbox.close();
    linger(delivery, &daemon, &config.bundle).await;
    Ok(())
}

/// Waits for a request to shut down, or for a signal that asks for it. With
/// containers the shim does not go: nobody would notice their end.
async fn shut_down(tasks: &Tasks) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle", "SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle", "SIGINT")?;
    // Taken, so that it does not kill: daemons send it to have stacks dumped.
    let mut dump = signal(SignalKind::user_defined1()).context("handle", "SIGUSR1")?;
    loop {
        let stop = tokio::select! {
            () = tasks.shut_down() => return Ok(()),
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            _ = dump.recv() => false,
        };
        if stop && !tasks.shutdown() {
            warn!("asked to stop by a signal, but there are containers");
        }
        if !stop {
            info!("containers: {}", tasks.describe());
        }
    }
}

/// Makes the OCI runtime that a container's options name.
fn runtimes(
    namespace: Id,
    reaper: Arc<Reaper>,
    helpers: Arc<Helpers>,
) -> Box<crate::task::MakeRuntime> {
    Box::new(move |bundle: &Bundle, options: &RuntimeOptions| -> Arc<dyn Runtime> {
        if options.is_embedded() {
            let root = options.root(&namespace);
            let runtime = EmbeddedRuntime::new(root, bundle.path(), Arc::clone(&helpers));
            return Arc::new(runtime.with_systemd_cgroup(options.systemd_cgroup));
        }
        helpers.dismiss();
        let config = binary_config(bundle.path(), options, &namespace);
        Arc::new(BinaryRuntime::new(config, Arc::clone(&reaper)))
    })
}

/// How to call a runtime's command line for a bundle.
pub(super) fn binary_config(
    bundle: &Path,
    options: &RuntimeOptions,
    namespace: &Id,
) -> binary::Config {
    binary::Config {
        binary: options.binary().into(),
        root: options.root(namespace),
        work: bundle.to_owned(),
        systemd_cgroup: options.systemd_cgroup,
    }
}

/// Accepts connections of our own user and of root. Each one is a reason to
/// believe that the daemon is there.
fn accept(listener: tokio::net::UnixListener, outbox: Arc<Outbox>) -> Listener {
    let user = nix::unistd::geteuid().as_raw();
    let connections =
        futures::stream::unfold((listener, outbox), move |(listener, outbox)| async move {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) if is_from(&connection, user) => {
                        outbox.kick();
                        return Some((io::Result::Ok(connection), (listener, outbox)));
                    }
                    Ok(_) => warn!("refused a connection of another user"),
                    Err(e) => {
                        warn!("accept: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
    Listener::new(connections)
}

fn is_from(connection: &UnixStream, user: u32) -> bool {
    connection.peer_cred().is_ok_and(|peer| peer.uid() == user || peer.uid() == 0)
}

/// Waits until the daemon has every event, however long it is away; unless it
/// cannot come back, or can learn of the exit from the bundle.
async fn linger(mut delivery: tokio::task::JoinHandle<()>, daemon: &Endpoint, bundle: &Bundle) {
    while daemon.path().is_some() {
        if timeout(RECORDED_LINGER, &mut delivery).await.is_ok() {
            return;
        }
        if exits::read_all(bundle.path()).is_ok_and(|records| !records.is_empty()) {
            warn!("the daemon stays away, and will find the exit in the bundle");
            break;
        }
    }
    delivery.abort();
}
