//! `start`: binds the socket, leaves a serving process behind, prints the
//! socket's address.
//!
//! ```text
//! daemon ── exec ─▶ start: read stdin, bind, join cgroup ── fork ─▶ serve
//!    ▲                └──────── print address, exit
//! ```
//!
//! All that is likely to fail happens before the fork, so that an address is
//! printed only if there is a process that serves. The fork is the only one: no
//! runtime and no thread exists before it.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    sys::{prctl, signal},
    unistd,
};
use shim_protocol::{Context, Error, Id, Result};

use super::{
    args::Args,
    serve::{self, Config},
};
use crate::{bootstrap::Bootstrap, bundle::Bundle, cgroup::Cgroup, kernel, socket, sys::process};

/// Most that is read from standard input.
const MAX_INPUT_BYTES: u64 = 10 << 20;
/// The kernel's highest OOM score adjustment (proc(5)).
const MAX_OOM_SCORE: i32 = 1000;

/// Runs `start`. Returns in two processes: in the starter once the address is
/// printed, in the server once it has been shut down.
///
/// # Errors
/// `AlreadyExists` when a shim of this container is alive, `InvalidArgument`
/// for what is wrong in flags, standard input or `config.json`.
pub fn run(args: Args) -> Result<()> {
    // Executed by a descriptor, it would be named after that one's number.
    let named = prctl::set_name(c"containerd-shim").map_err(io::Error::from);
    named.context("name", "this process")?;
    let namespace = Id::new("namespace", &args.namespace)?;
    let id = Id::new("container id", &args.id)?;
    let bundle = super::bundle(&args)?;
    let mut input = Vec::new();
    io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut input).context("read", "standard input")?;
    let bootstrap = Bootstrap::parse(&input, &namespace, &id)?;
    let group = bundle.spec()?.group()?;

    let path = socket::path(
        bootstrap.socket_folder.as_deref(),
        &args.address,
        &namespace,
        group.as_ref().unwrap_or(&id),
    );
    let address = socket::address(&path);
    let answer = bootstrap.answer(&address, env::var("MAX_SHIM_VERSION").ok().as_deref())?;
    let socket = match socket::bind(&path)? {
        socket::Bound::New(socket) => socket,
        // Another container of the group was here first: its shim takes this
        // one too.
        socket::Bound::InUse if group.is_some_and(|group| group != id) => {
            bundle.write_address(&address)?;
            return print(&answer);
        }
        socket::Bound::InUse => {
            return Err(Error::already_exists(format!("a shim for {id} serves at {address}")));
        }
    };
    bundle.write_address(&address)?;
    raise_oom_score()?;
    let cgroup = &bootstrap.options.shim_cgroup;
    if !cgroup.is_empty() {
        Cgroup::join(Path::new(cgroup), std::process::id()).context("join cgroup", cgroup)?;
    }
    env::set_current_dir(bundle.path()).context("enter", bundle.path().display())?;
    let streams = Streams::open(&bundle)?;
    let ttrpc_address = bootstrap.ttrpc_address.or_else(|| env::var("TTRPC_ADDRESS").ok());
    match process::fork().context("fork", "the serving process")? {
        Some(child) => print(&answer)
            .inspect_err(|_| {
                // Nobody would ever find it. The socket goes with `socket`.
                let _ = signal::kill(child, signal::SIGKILL);
            })
            .and_then(|()| socket.into_listener().map(drop)),
        None => {
            let listener = socket.into_listener()?;
            detach(streams, listener.as_raw_fd())?;
            let debug = args.debug || bootstrap.debug;
            let is_embedded = bootstrap.options.is_embedded();
            serve::run(Config {
                namespace,
                id,
                bundle,
                path,
                listener,
                is_embedded,
                ttrpc_address,
                debug,
            })
        }
    }
}

fn print(answer: &str) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush()).context("print", "address")
}

/// Out of memory, the kernel takes the shim before its daemon: the score is
/// one above the daemon's, which is the parent of `start`.
fn raise_oom_score() -> Result<()> {
    let daemon = format!("/proc/{}/oom_score_adj", unistd::getppid());
    let text = kernel::read(&daemon).context("read", &daemon)?;
    let score: i32 = text.trim().parse().unwrap_or_default();
    let score = MAX_OOM_SCORE.min(score + 1);
    fs::write("/proc/self/oom_score_adj", score.to_string()).context("set", "OOM score")
}

/// What the serving process has in place of the daemon's streams.
struct Streams {
    null: File,
    log: Option<File>,
}

impl Streams {
    fn open(bundle: &Bundle) -> Result<Self> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        Ok(Self { null: null.context("open", "/dev/null")?, log: open_log(&bundle.log()) })
    }
}

/// Leaves the daemon: own session, no streams of its, and no descriptor that it
/// may have leaked. Standard error becomes the log.
fn detach(streams: Streams, listener: i32) -> Result<()> {
    let redirect = || {
        unistd::setsid()?;
        unistd::dup2_stdin(&streams.null)?;
        unistd::dup2_stdout(&streams.null)?;
        unistd::dup2_stderr(streams.log.as_ref().unwrap_or(&streams.null))
    };
    redirect().map_err(io::Error::from).context("leave", "the daemon")?;
    drop(streams);
    process::close_all_but(listener);
    Ok(())
}

/// Opens the daemon's log FIFO, if there is one, for reading too: so it stays
/// open when the daemon goes, and writing neither blocks nor breaks.
fn open_log(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC);
    options.open(path).ok()
}
