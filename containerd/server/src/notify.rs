//! Tells systemd how the service is doing (`sd_notify(3)`).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// What systemd may want to know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    /// Clients can connect.
    Ready,
    /// The daemon is about to end.
    Stopping,
}

/// Sends `state` to the socket that `NOTIFY_SOCKET` names, and does nothing
/// without one.
///
/// # Errors
/// When the socket cannot be reached.
pub(crate) fn notify(state: State) -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(address) if !address.is_empty() => send(address.as_bytes(), state),
        _ => Ok(()),
    }
}

fn send(address: &[u8], state: State) -> io::Result<()> {
    let message: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    // An @ stands for the zero byte that abstract names begin with.
    let address = match address {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn to_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), State::Ready).unwrap();
        assert_eq!(received(&socket), b"READY=1");
    }

    #[test]
    fn to_an_abstract_name() {
        let name = format!("containerd-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_bytes(), State::Stopping).unwrap();
        assert_eq!(received(&socket), b"STOPPING=1");
    }
}
