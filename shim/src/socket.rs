//! The shim's socket: where it is, and who may bind it.
//!
//! Its address is `unix://<folder>/<sha256 of daemon address, namespace, id>`
//! (containerd, `pkg/shim/util_unix.go`), so that each daemon finds its shims
//! and no path gets too long. For a group of containers the id is the group's.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket},
};
use sha2::{Digest, Sha256};
use shim_protocol::{Context, Error, Id, Result, sockets};
use ttrpc::proto::MessageHeader;

/// Folder of all shim sockets, whichever the daemon.
pub const DEFAULT_FOLDER: &str = "/run/containerd/s";

/// The longest path that fits into a socket address with its final zero
/// (`sun_path`, unix(7)).
const MAX_PATH: usize = 107;

/// How long a shim that serves may take to say anything.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried to take the place of one that closes its socket.
const MAX_TRIES: usize = 5;

/// What came of an attempt to bind.
#[derive(Debug)]
pub enum Bound {
    /// The socket is ours.
    New(Socket),
    /// Another shim serves there.
    InUse,
}

/// A socket this process has bound. It is removed on drop, unless it was
/// [handed over](Socket::into_listener).
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

/// Path of the socket for a container or group.
pub fn path(folder: Option<&str>, daemon: &str, namespace: &Id, id: &Id) -> PathBuf {
    let hash =
        Sha256::digest(Path::new(daemon).join(namespace).join(id).as_os_str().as_encoded_bytes());
    let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    folder
        .map(|folder| Path::new(folder).join(&name))
        .filter(|path| path.as_os_str().len() <= MAX_PATH)
        .unwrap_or_else(|| Path::new(DEFAULT_FOLDER).join(&name))
}

/// The address of a path, as daemons want it.
pub fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Binds `path` for root only, over a socket that nobody serves any more.
///
/// # Errors
/// When the folder or socket cannot be made.
pub fn bind(path: &Path) -> Result<Bound> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .context("make", folder.display())?;
    for _ in 0..MAX_TRIES {
        if let Some(listener) = bind_unless_open(path, folder)? {
            let socket = Socket { path: path.to_owned(), listener: Some(listener) };
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .context("protect", path.display())?;
            return Ok(Bound::New(socket));
        }
        // Not with the lock, which is that of all shims.
        if is_served(path) {
            break;
        }
        // It was about to be closed.
    }
    Ok(Bound::InUse)
}

/// Binds `path`, unless somebody has it open.
fn bind_unless_open(path: &Path, folder: &Path) -> Result<Option<UnixListener>> {
    let _lock = sockets::lock(folder).context("lock", folder.display())?;
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if !matches!(connect(path), Ok(Door::Closed)) {
                return Ok(None);
            }
            remove(path)?;
            UnixListener::bind(path)
        }
        other => other,
    };
    Ok(Some(listener.context("bind", path.display())?))
}

/// What came of an attempt to connect.
enum Door {
    Open(UnixStream),
    /// So many wait there that whoever it is will not take more.
    Full,
    /// There is nobody.
    Closed,
}

/// Connects, and waits for nothing.
fn connect(path: &Path) -> io::Result<Door> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Door::Open(socket.into())),
        Err(Errno::EAGAIN) => Ok(Door::Full),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(Door::Closed),
        Err(errno) => Err(errno.into()),
    }
}

/// Does anybody answer there? A shim that was killed takes connections until the
/// kernel has closed all that it had open, so it is asked something.
pub fn is_served(path: &Path) -> bool {
    match connect(path) {
        Ok(Door::Open(server)) => match ask(server) {
            Ok(answered) => answered,
            // Whoever takes that long is stopped, and not gone.
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        },
        Ok(Door::Full) => true,
        Ok(Door::Closed) | Err(_) => false,
    }
}

/// Asks for a method without a name, which every server says that it has not.
fn ask(mut server: UnixStream) -> io::Result<bool> {
    server.set_nonblocking(false)?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.write_all(&Vec::from(MessageHeader::new_request(1, 0)))?;
    Ok(server.read(&mut [0])? > 0)
}

/// Removes a socket that nobody serves any more; one that is gone is success.
/// That of a group may serve other containers still, or again.
///
/// # Errors
/// When it cannot be told whether somebody has it open, or it cannot be removed.
pub fn remove_stale(path: &Path) -> Result<()> {
    for _ in 0..MAX_TRIES {
        if !path.exists() || remove_unless_open(path)? || is_served(path) {
            break;
        }
        // It was about to be closed.
    }
    Ok(())
}

fn remove_unless_open(path: &Path) -> Result<bool> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let _lock = sockets::lock(folder).context("lock", folder.display())?;
    match connect(path).context("look at", path.display())? {
        Door::Closed => remove(path).map(|()| true),
        Door::Open(_) | Door::Full => Ok(false),
    }
}

/// Removes a socket of one's own; one that is gone is success.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", path.display()),
        _ => Ok(()),
    }
}

/// The path in an address; `None` for an abstract socket of an older shim.
pub fn path_of(address: &str) -> Option<&Path> {
    address.trim().strip_prefix("unix://").map(Path::new)
}

impl Socket {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the listener to whoever serves; the file stays.
    ///
    /// # Errors
    /// `Internal` when it was given away before.
    pub fn into_listener(mut self) -> Result<UnixListener> {
        self.listener.take().ok_or_else(|| Error::internal("the listener was given away"))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // On the way out of a failed start, which reports its own error.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::{
            fd::{AsFd, AsRawFd},
            unix::{fs::MetadataExt, net::UnixDatagram},
        },
        thread,
    };

    use nix::{
        poll::{PollFd, PollFlags, PollTimeout, poll},
        sys::socket,
    };

    use super::*;

    fn id(text: &str) -> Id {
        Id::new("id", text).unwrap()
    }

    fn new(path: &Path) -> Socket {
        match bind(path).unwrap() {
            Bound::New(socket) => socket,
            Bound::InUse => panic!("in use"),
        }
    }

    #[test]
    fn the_address_is_the_one_that_containerd_computes() {
        let path = path(None, "/run/containerd/containerd.sock", &id("default"), &id("a"));
        // printf %s /run/containerd/containerd.sock/default/a | sha256sum
        let expected = "82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6";
        assert_eq!(path, Path::new(DEFAULT_FOLDER).join(expected));
    }

    #[test]
    fn a_folder_that_is_too_long_is_not_used() {
        let (daemon, namespace, id) = ("/c.sock", id("ns"), id("a"));
        let path_in = |folder: &str| path(Some(folder), daemon, &namespace, &id);
        assert!(path_in("/tmp/s").starts_with("/tmp/s"));
        assert!(path_in(&format!("/{}", "x".repeat(42))).starts_with(DEFAULT_FOLDER));
    }

    /// Answers whoever asks something, `times` times.
    fn serve(listener: &UnixListener, mut times: usize) {
        while times > 0 {
            let (mut client, _) = listener.accept().unwrap();
            let mut question = [0; ttrpc::proto::MESSAGE_HEADER_LENGTH];
            if client.read_exact(&mut question).is_ok() {
                client.write_all(b"what?").unwrap();
                times -= 1;
            }
        }
    }

    #[test]
    fn a_socket_is_bound_once_while_it_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/s");
        let socket = new(&path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let listener = socket.into_listener().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| serve(&listener, 3));
            assert!(matches!(bind(&path).unwrap(), Bound::InUse));
            remove_stale(&path).unwrap();
            assert!(path.exists() && is_served(&path));
        });
        // Not by closing it: a child that another test is about to start may hold a copy.
        socket::shutdown(listener.as_raw_fd(), socket::Shutdown::Both).unwrap();
        assert!(path.exists() && !is_served(&path));
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        drop(new(&path));
        assert!(!path.exists());
        remove_stale(&path).unwrap();
        remove_stale(Path::new("/nowhere/s")).unwrap();
        // Nobody can connect, and yet somebody has it.
        let _other = UnixDatagram::bind(&path).unwrap();
        remove_stale(&path).unwrap_err();
        assert!(path.exists());
    }

    #[test]
    fn one_that_takes_no_more_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = new(&path).into_listener().unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        while let Door::Open(client) = connect(&path).unwrap() {
            waiting.push(client);
        }
        assert!(is_served(&path));
        assert!(matches!(bind(&path).unwrap(), Bound::InUse));
    }

    #[test]
    fn one_that_is_being_killed_serves_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let dying = new(&path).into_listener().unwrap();
        thread::scope(|scope| {
            let heir = scope.spawn(|| new(&path));
            // What it asks will not be answered.
            let mut asked = [PollFd::new(dying.as_fd(), PollFlags::POLLIN)];
            poll(&mut asked, PollTimeout::NONE).unwrap();
            assert!(!heir.is_finished());
            drop(dying);
            drop(heir.join().unwrap());
        });
    }

    /// As of another shim of the same group, which was started meanwhile.
    #[test]
    fn one_that_was_bound_anew_is_not_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let stale = new(&path).into_listener().unwrap();
        socket::shutdown(stale.as_raw_fd(), socket::Shutdown::Both).unwrap();
        let held = sockets::lock(folder.path()).unwrap();
        // Whoever waits for a lock is in there, behind an arrow.
        let of_folder = format!(":{} ", fs::metadata(&folder).unwrap().ino());
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains("->") && lock.contains(&of_folder))
        };
        thread::scope(|scope| {
            let removal = scope.spawn(|| remove_stale(&path));
            while !removal.is_finished() && !waits() {
                thread::yield_now();
            }
            assert!(path.exists(), "it was removed without the lock");
            fs::remove_file(&path).unwrap();
            let listener = UnixListener::bind(&path).unwrap();
            scope.spawn(move || serve(&listener, 1));
            drop(held);
            removal.join().unwrap().unwrap();
            assert!(path.exists());
        });
    }

    #[test]
    fn addresses_and_paths() {
        assert_eq!(address(Path::new("/run/s")), "unix:///run/s");
        assert_eq!(path_of("unix:///run/s\n"), Some(Path::new("/run/s")));
        assert_eq!(path_of("/containerd-shim/x.sock@"), None);
    }
}
