//! Where a shim listens, and in which words it says so.
//!
//! `shim start` prints a bare address (up to 1.6), or the address with the
//! version of the task API and the protocol, as JSON (from 1.7) or protobuf
//! (from 2.3; containerd, `pkg/shim`). The JSON is kept in the bundle as
//! `bootstrap.json`; older daemons keep the bare address in `address`.

use std::{
    fmt, fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use protobuf::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shim_protocol::{
    Context, Error, ErrorKind, Id, Result, proto::bootstrap::BootstrapResult, sockets,
};
use tokio::net::UnixStream;

use crate::manager::blocking;

/// The longest path that `sockaddr_un` takes, without the final zero (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;
/// Where shims make their sockets, unless they are told otherwise.
const SOCKET_FOLDER: &str = "/run/containerd/s";

/// What a shim says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    /// Version of the task API: 2 or 3.
    pub(crate) version: u32,
    /// Where it listens.
    pub(crate) address: String,
    /// `ttrpc`; others exist, but not here.
    pub(crate) protocol: String,
}

impl Bootstrap {
    /// A shim that prints its address only: version 2, ttrpc.
    pub(crate) fn bare(address: &str) -> Self {
        Self { version: 2, address: address.into(), protocol: "ttrpc".into() }
    }

    /// Reads what a shim printed.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is neither JSON nor an address;
    /// `Unimplemented` for a version or protocol that we do not speak.
    pub(crate) fn parse(printed: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(printed).unwrap_or_default().trim();
        let this = if let Ok(json) = serde_json::from_str::<Self>(text) {
            json
        } else if let Some(message) = Self::from_wire(printed) {
            message
        } else {
            Self::bare(text)
        };
        if !(2..=3).contains(&this.version) {
            return Err(Error::unimplemented(format!("task API version {}", this.version)));
        }
        if this.protocol != "ttrpc" {
            return Err(Error::unimplemented(format!("shim protocol {:?}", this.protocol)));
        }
        match this.address.parse::<Address>() {
            Ok(_) => Ok(this),
            Err(e) if e.kind() == ErrorKind::Unimplemented => Err(e),
            Err(_) => Err(nonsense(printed)),
        }
    }

    /// An address alone, or other text, never is a message with a version.
    fn from_wire(printed: &[u8]) -> Option<Self> {
        let result = BootstrapResult::parse_from_bytes(printed).ok()?;
        let version = u32::try_from(result.version).ok().filter(|version| *version != 0)?;
        Some(Self { version, address: result.address, protocol: result.protocol })
    }
}

fn nonsense(printed: &[u8]) -> Error {
    let text = String::from_utf8_lossy(&printed[..printed.len().min(80)]);
    Error::precondition(format!("shim printed no address, but {text:?}"))
}

/// Address of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `unix://` and a path.
    Path(PathBuf),
    /// Without a scheme: a name in the abstract namespace (older shims).
    Abstract(String),
}

impl Address {
    /// Where a shim listens by custom: a name made of the daemon's gRPC
    /// address, the namespace and the id of the container or its group
    /// (containerd, `pkg/shim/util_unix.go`).
    pub(crate) fn customary(grpc_address: &str, namespace: &Id, id: &Id) -> Self {
        let seed = Path::new(grpc_address).join(namespace).join(id);
        let digest = Sha256::digest(seed.as_os_str().as_encoded_bytes());
        let name = digest.iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        Self::Path(Path::new(SOCKET_FOLDER).join(name))
    }

    /// Connects, without waiting.
    ///
    /// # Errors
    /// `NotFound` when nobody listens there; `Unavailable` when that cannot be
    /// told: descriptors may be used up, or too many wait to be let in.
    pub(crate) async fn connect(&self) -> Result<UnixStream> {
        self.try_to_connect().await.map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ErrorKind::NotFound,
                _ => ErrorKind::Unavailable,
            };
            Error::caused(kind, format!("connect to shim at {self}"), e)
        })
    }

    async fn try_to_connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Abstract(name) => UnixStream::connect(format!("\0{name}")).await,
            Self::Path(path) if path.as_os_str().len() <= SOCKET_PATH_LIMIT => {
                UnixStream::connect(path).await
            }
            Self::Path(path) => connect_long(path).await,
        }
    }

    /// Removes the socket's file if nobody listens there any more.
    ///
    /// # Errors
    /// When the file, or the lock of its folder, says no.
    pub(crate) async fn remove_stale(&self) -> Result<()> {
        let Self::Path(path) = self else { return Ok(()) };
        let refused = io::ErrorKind::ConnectionRefused;
        // Any other answer means that somebody listens, or that there is no file.
        if !self.try_to_connect().await.is_err_and(|e| e.kind() == refused) {
            return Ok(());
        }
        let path = path.clone();
        blocking(move || remove_stale(&path)).await
    }
}

/// Looks again, under the lock that shims bind under: a new shim of the same
/// group may have taken the place meanwhile. Blocks.
fn remove_stale(path: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let lock = match sockets::lock(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock.context("lock", folder.display())?,
    };
    let short = Path::new("/proc/self/fd").join(lock.as_raw_fd().to_string()).join(name);
    let fits = path.as_os_str().len() <= SOCKET_PATH_LIMIT;
    if !is_refused(if fits { path } else { &short }).context("look at", path.display())? {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", path.display()),
        _ => Ok(()),
    }
}

/// Is there a socket on which nobody listens? Does not wait to be let in.
fn is_refused(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    Ok(connect(socket.as_raw_fd(), &UnixAddr::new(path)?) == Err(Errno::ECONNREFUSED))
}

/// Reaches a socket whose path is too long by way of its open folder.
async fn connect_long(path: &Path) -> io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = tokio::fs::File::open(folder).await?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).await
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("shim address {text:?}"));
        // Nothing that is printed by accident has the form of an address:
        // those are absolute paths on one line, with or without a scheme.
        if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(invalid());
        }
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Path(path.into())),
            Some(("unix", _)) => Err(invalid()),
            Some((scheme, _)) => {
                Err(Error::unimplemented(format!("shim address with scheme {scheme:?}")))
            }
            None if text.starts_with('/') && text.len() <= SOCKET_PATH_LIMIT => {
                Ok(Self::Abstract(text.into()))
            }
            None => Err(invalid()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix://{}", path.display()),
            Self::Abstract(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::socket;

    use super::*;

    #[test]
    fn all_forms_of_a_start_are_understood() {
        let bare = Bootstrap::parse(b"unix:///run/containerd/s/abc\n").unwrap();
        assert_eq!(bare, Bootstrap::bare("unix:///run/containerd/s/abc"));
        let json = br#"{"version":3,"address":"unix:///s","protocol":"ttrpc","x":1}"#;
        let json = Bootstrap::parse(json).unwrap();
        assert_eq!((json.version, json.address.as_str()), (3, "unix:///s"));
        let message = BootstrapResult {
            version: 3,
            address: "unix:///s".into(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        assert_eq!(Bootstrap::parse(&message.write_to_bytes().unwrap()).unwrap(), json);
        let old = Bootstrap::parse(b"/containerd-shim/ns/id/shim.sock").unwrap();
        assert_eq!(
            old.address.parse::<Address>().unwrap(),
            Address::Abstract("/containerd-shim/ns/id/shim.sock".into())
        );
    }

    #[test]
    fn nonsense_is_refused_and_quoted() {
        for printed in ["", "hello", "a\nunix:///s", "unix://s", "{}", "usage: shim /x", "unix://"]
        {
            let error = Bootstrap::parse(printed.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{printed:?}");
            assert!(error.to_string().contains(&format!("{printed:?}")), "{error}");
        }
        assert_eq!(
            Bootstrap::parse(&[0xff, 0xfe]).unwrap_err().kind(),
            ErrorKind::FailedPrecondition
        );
    }

    #[test]
    fn what_we_do_not_speak_is_unimplemented() {
        for printed in [
            r#"{"version":4,"address":"unix:///s","protocol":"ttrpc"}"#,
            r#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#,
            "vsock://3:1024",
        ] {
            let error = Bootstrap::parse(printed.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unimplemented, "{printed}");
        }
    }

    #[test]
    fn the_customary_address_is_the_one_go_shims_use() {
        let id = |text| Id::new("id", text).unwrap();
        let address =
            Address::customary("/run/containerd/containerd.sock", &id("default"), &id("a"));
        // printf %s /run/containerd/containerd.sock/default/a | sha256sum
        let digest = "82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6";
        assert_eq!(address.to_string(), format!("unix:///run/containerd/s/{digest}"));
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_reached_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(60)).join("y".repeat(60));
        fs::create_dir_all(&deep).unwrap();
        let short = folder.path().join("l");
        std::os::unix::fs::symlink(&deep, &short).unwrap();
        let listener = tokio::net::UnixListener::bind(short.join("s")).unwrap();
        let address = Address::Path(deep.join("s"));
        address.connect().await.unwrap();
        address.remove_stale().await.unwrap();
        assert!(deep.join("s").exists());
        // The child of another test may hold it, too.
        nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        drop(listener);
        assert!(address.connect().await.unwrap_err().is_not_found());
        address.remove_stale().await.unwrap();
        assert!(!deep.join("s").exists());
    }

    /// As of another shim of the same group, which was started meanwhile.
    #[tokio::test]
    async fn a_socket_that_was_bound_anew_is_not_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let stale = tokio::net::UnixListener::bind(&path).unwrap();
        // Not by closing it: a child that another test is about to start may hold a copy.
        socket::shutdown(stale.as_raw_fd(), socket::Shutdown::Both).unwrap();
        let lock = sockets::lock(folder.path()).unwrap();
        let address = Address::Path(path.clone());
        let removal = tokio::spawn(async move { address.remove_stale().await });
        // Whoever waits for a lock is in there, behind an arrow.
        let of_folder = format!(":{} ", fs::metadata(&folder).unwrap().ino());
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains("->") && lock.contains(&of_folder))
        };
        while !removal.is_finished() && !waits() {
            tokio::task::yield_now().await;
        }
        assert!(path.exists(), "it was removed without the lock");
        fs::remove_file(&path).unwrap();
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        drop(lock);
        removal.await.unwrap().unwrap();
        assert!(path.exists());
    }

    #[tokio::test]
    async fn an_abstract_socket_is_reached() {
        let name = format!("/containerd-shim/test/{}/shim.sock", std::process::id());
        let _listener = tokio::net::UnixListener::bind(format!("\0{name}")).unwrap();
        name.parse::<Address>().unwrap().connect().await.unwrap();
    }
}
