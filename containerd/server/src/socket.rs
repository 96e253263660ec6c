//! The daemon's sockets: bound with the right mode and owner from the start.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
};

use nix::unistd::{Gid, Uid, chown};
use shim_protocol::{Context, Error, Result};
use tokio::net::UnixListener;

use crate::config::Socket;

/// Longest path of a socket, in bytes: `sun_path` less its last zero (unix(7)).
const MAX_PATH: usize = 107;

/// Who may connect: the owner and the group.
const MODE: u32 = 0o660;

/// Binds `socket`. One that a dead daemon has left there is replaced.
///
/// # Errors
/// - `InvalidArgument` when the path is too long;
/// - `FailedPrecondition` when somebody is listening there, or something else
///   than a socket is in the way;
/// - those of the system.
pub(crate) fn bind(socket: &Socket) -> Result<UnixListener> {
    let path = &socket.address;
    let shown = path.display();
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::invalid(format!(
            "socket {shown}: the path is longer than {MAX_PATH} bytes"
        )));
    }
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)
            .context("make folder", folder.display())?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).context("bind socket", shown)?;
    let (uid, gid) = (Uid::from_raw(socket.uid), Gid::from_raw(socket.gid));
    // The owner first: whoever may use it then is meant to.
    chown(path, Some(uid), Some(gid))
        .map_err(io::Error::from)
        .context("change the owner of socket", path.display())?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
        .context("change the mode of socket", path.display())?;
    Ok(listener)
}

/// Removes a socket that nobody serves any more. If that fails, the next
/// daemon finds it stale.
pub(crate) fn remove(socket: &Socket) {
    if let Err(e) = fs::remove_file(&socket.address) {
        tracing::warn!(socket = %socket.address.display(), error = %e, "a socket was left behind");
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context("look at socket", path.display()),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::precondition(format!("{} is not a socket", path.display())));
    }
    match UnixStream::connect(path) {
        // Nobody has it open any more.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("remove stale socket", path.display())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context("connect to socket", path.display()),
        Ok(_) => Err(Error::precondition(format!(
            "socket {} is in use by another process",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use shim_protocol::ErrorKind;

    use super::*;

    fn socket(folder: &Path) -> Socket {
        Socket { address: folder.join("below/a.sock"), uid: 0, gid: 0 }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket(folder.path());
        let first = bind(&socket).unwrap();
        assert_eq!(bind(&socket).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        drop(first);
        bind(&socket).unwrap();
        assert_eq!(fs::metadata(&socket.address).unwrap().mode() & 0o777, MODE);
    }

    #[tokio::test]
    async fn a_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = Socket { address: folder.path().join("a"), uid: 0, gid: 0 };
        fs::write(&socket.address, "precious").unwrap();
        assert_eq!(bind(&socket).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        assert_eq!(fs::read(&socket.address).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_long_path_is_named() {
        let socket = Socket { address: Path::new("/tmp").join("x".repeat(200)), uid: 0, gid: 0 };
        assert_eq!(bind(&socket).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
