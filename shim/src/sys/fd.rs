//! Descriptors: polled, received from elsewhere, and what is in a pipe.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use tokio::io::{Interest, unix::AsyncFd};

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

/// Has the runtime watch a descriptor, which must not block.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and
    // `AsyncFd` deregisters before it drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}

/// How many bytes wait in a pipe. Either end may be asked.
pub(crate) fn bytes_to_read(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count = 0;
    // SAFETY: FIONREAD writes one int, which `count` is.
    unsafe { fionread(fd.as_raw_fd(), &raw mut count)? };
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Sends as many of the bytes as fit now, and descriptors with them (unix(7),
/// SCM_RIGHTS); gives how many bytes that were.
///
/// # Errors
/// Those of sendmsg(2); a peer that is gone raises no signal.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    text: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let text = [IoSlice::new(text)];
    Ok(sendmsg::<()>(socket.as_raw_fd(), &text, rights, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives one message with a descriptor (unix(7), SCM_RIGHTS).
///
/// # Errors
/// `WouldBlock` when there is none yet, `UnexpectedEof` when the sender has
/// gone, `InvalidData` for a message without a descriptor.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // runc sends the terminal's name along, of at most 4096 bytes; what does
    // not fit is cut off, which is fine.
    let mut text = [0; 256];
    let (count, received) = receive_all(socket, &mut text)?;
    match received.into_iter().next() {
        Some(fd) => Ok(fd),
        None if count == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "message without a descriptor")),
    }
}

/// Receives up to as many bytes as `text` holds, and up to four descriptors.
///
/// # Errors
/// `WouldBlock` when there is nothing yet.
pub(crate) fn receive_all(
    socket: BorrowedFd<'_>,
    text: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut buffers = [IoSliceMut::new(text)];
    let mut space = cmsg_space!([libc::c_int; 4]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these descriptors for us, so nobody else
            // owns them; all are wrapped, so the surplus is closed.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, received))
}
