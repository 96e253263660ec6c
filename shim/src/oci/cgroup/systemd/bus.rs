//! A connection to systemd: through the system bus, or its own socket where
//! there is no bus, as with runc (D-Bus specification, "Authentication
//! Protocol").
//!
//! Of the libraries for this, zbus needs an async runtime, which no process has
//! here that makes containers. Those without one leave their socket open to
//! programs that are executed meanwhile: a way for a container to the manager of
//! its host.

use std::{
    env,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use shim_protocol::{Context, Error, ErrorKind, Result};

use super::wire::{self, Call, Message, Writer};

/// Names where the bus is instead.
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// For root only, without a bus between.
const PRIVATE: &str = "/run/systemd/private";
/// The longest line of the authentication, in bytes.
const MAX_LINE_BYTES: u64 = 512;
/// How long all that is asked on a connection may take, as with runc.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The same where a daemon waits for a container to be cleaned up, which it does
/// for five seconds.
pub(super) const CLEANUP_PATIENCE: Duration = Duration::from_secs(4);

pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
const BUS: &str = "org.freedesktop.DBus";
const MATCH: &str = "type='signal',sender='org.freedesktop.systemd1',\
                     path='/org/freedesktop/systemd1',\
                     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    /// Signals that came before they were asked for.
    signals: Vec<Message>,
}

impl Bus {
    /// Connects, and asks for the ends of jobs.
    ///
    /// # Errors
    /// `FailedPrecondition` when no systemd is there to talk to.
    pub(super) fn connect(patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        match UnixStream::connect(system_bus()?) {
            Ok(stream) => {
                let mut bus = Self::authenticate(stream, deadline)?;
                let hello = Call {
                    destination: BUS,
                    path: "/org/freedesktop/DBus",
                    interface: BUS,
                    member: "Hello",
                    signature: "",
                };
                bus.call(&hello, &Writer::default())?;
                let mut rule = Writer::default();
                rule.text(MATCH);
                bus.call(&Call { member: "AddMatch", signature: "s", ..hello }, &rule)?;
                Ok(bus)
            }
            Err(no_bus) => match UnixStream::connect(PRIVATE) {
                // It sends all there is, unasked.
                Ok(stream) => Self::authenticate(stream, deadline),
                Err(error) => {
                    tracing::debug!(%error, "connect to {PRIVATE}");
                    Err(no_bus).context_as(
                        ErrorKind::FailedPrecondition,
                        "connect to",
                        "systemd, for the container's cgroup",
                    )
                }
            },
        }
    }

    fn authenticate(stream: UnixStream, deadline: Instant) -> Result<Self> {
        let mut bus = Self { stream, deadline, serial: 0, signals: Vec::new() };
        let user = nix::unistd::geteuid().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        // In one, as systemd's own programs do it: should the last line arrive
        // together with a message, systemd looks at the message no sooner than when
        // more arrives.
        bus.write(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") && line.len() < MAX_LINE_BYTES as usize {
            let mut byte = [0];
            bus.read_exact(&mut byte).context("read from", "D-Bus")?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            let answer = String::from_utf8_lossy(&line).trim().to_owned();
            let what = format!("D-Bus does not let us in: {answer:?}");
            return Err(Error::new(ErrorKind::PermissionDenied, what));
        }
        Ok(bus)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let wait = self.remaining().and_then(|left| self.stream.set_write_timeout(Some(left)));
        wait.and_then(|()| self.stream.write_all(bytes)).context("write to", "D-Bus")
    }

    fn remaining(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Calls a method; gives the answer.
    ///
    /// # Errors
    /// What the other side answers instead, by its name for it.
    pub(super) fn call(&mut self, call: &Call<'_>, arguments: &Writer) -> Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        let message = call.encode(serial, arguments);
        self.write(&message)?;
        loop {
            let message = self.next()?;
            match message.kind {
                wire::SIGNAL => self.signals.push(message),
                wire::ANSWER if message.reply_serial == Some(serial) => return Ok(message),
                wire::ERROR if message.reply_serial == Some(serial) => {
                    return Err(refusal(call.member, &message));
                }
                // What others ask of us, who serve nothing.
                _ => {}
            }
        }
    }

    /// Waits for a signal for which `pick` has an answer.
    ///
    /// # Errors
    /// `DeadlineExceeded` when none comes.
    pub(super) fn wait<T>(&mut self, pick: impl Fn(&Message) -> Result<Option<T>>) -> Result<T> {
        for signal in std::mem::take(&mut self.signals) {
            if let Some(found) = pick(&signal)? {
                return Ok(found);
            }
        }
        loop {
            let message = self.next()?;
            if message.kind == wire::SIGNAL
                && let Some(found) = pick(&message)?
            {
                return Ok(found);
            }
        }
    }

    fn next(&mut self) -> Result<Message> {
        Message::read(self)
    }
}

/// As much as comes before the deadline.
impl Read for Bus {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.remaining()?))?;
        match self.stream.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            read => read,
        }
    }
}

fn system_bus() -> Result<PathBuf> {
    let Some(address) = env::var_os(ADDRESS).filter(|address| !address.is_empty()) else {
        return Ok(SYSTEM_BUS.into());
    };
    let address = address.to_string_lossy();
    let paths = address.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let mut paths = paths.flat_map(|address| address.split(','));
    let path = paths.find_map(|part| part.strip_prefix("path="));
    path.map(|path| Path::new(path).to_owned())
        .ok_or_else(|| Error::precondition(format!("{ADDRESS} names no socket: {address:?}")))
}

/// An error by its name (`bus-common-errors.h` of systemd; D-Bus specification).
fn refusal(member: &str, message: &Message) -> Error {
    let name = &*message.error_name;
    let kind = match name.rsplit_once('.') {
        Some((SYSTEMD, "UnitExists")) => ErrorKind::AlreadyExists,
        Some((SYSTEMD, "NoSuchUnit")) => ErrorKind::NotFound,
        Some(("org.freedesktop.DBus.Error", name)) => match name {
            "InvalidArgs" | "PropertyReadOnly" | "UnknownProperty" => ErrorKind::InvalidArgument,
            "AccessDenied" | "AuthFailed" => ErrorKind::PermissionDenied,
            "ServiceUnknown" | "NameHasNoOwner" => ErrorKind::FailedPrecondition,
            "NoReply" | "Timeout" | "TimedOut" => ErrorKind::DeadlineExceeded,
            "Disconnected" => ErrorKind::Unavailable,
            _ => ErrorKind::Unknown,
        },
        _ => ErrorKind::Unknown,
    };
    let words = match message.signature.starts_with('s') {
        true => message.body().text().unwrap_or(name).to_owned(),
        false => name.to_owned(),
    };
    Error::new(kind, format!("systemd: {member}: {words}"))
}
