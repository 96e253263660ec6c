//! The last steps of a container's process: privileges are dropped, system
//! calls filtered, and it becomes the user's program.

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::{CString, OsStr},
    fs::OpenOptions,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use libcontainer::{
    capabilities::drop_privileges,
    syscall::{
        Syscall, SyscallError,
        linux::{self, LinuxSyscall, MountAttr},
    },
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use nix::{
    fcntl::AtFlags,
    mount::MsFlags,
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    unistd::{AccessFlags, execve, faccessat},
};
use oci_spec::runtime::{LinuxCapabilities, Mount, Spec};
use shim_protocol::Error;

use super::{capabilities, process::limit_resources, seccomp::Filter, spec::Confined, streams};
use crate::sys::{process, tty};

/// Most that is read of a container's list of users, in bytes.
const MAX_PASSWD_BYTES: u64 = 1 << 20;

/// Becomes the user's program.
#[derive(Clone, Debug)]
pub(super) struct Become(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    capabilities: LinuxCapabilities,
    filter: Option<Filter>,
    no_new_privileges: bool,
    /// Where the listener of the filter is sent.
    listener: Option<RawFd>,
    found: RefCell<Option<PathBuf>>,
    is_homeless: bool,
    in_user_namespace: bool,
    failure: RefCell<Option<String>>,
}

impl Become {
    pub(super) fn new(
        confined: &Confined,
        filter: Option<Filter>,
        listener: Option<RawFd>,
        in_user_namespace: bool,
    ) -> Result<Self, Error> {
        // In a user namespace of its own it has all of them.
        let capabilities = match in_user_namespace {
            true => confined.capabilities.clone(),
            false => capabilities::grantable(&confined.capabilities)?,
        };
        Ok(Self(Rc::new(Inner {
            capabilities,
            filter,
            no_new_privileges: confined.process.no_new_privileges() == Some(true),
            listener,
            found: RefCell::default(),
            is_homeless: confined.is_homeless,
            in_user_namespace,
            failure: RefCell::default(),
        })))
    }

    /// Why it did not become it, in runc's words: clients read them.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.failure.borrow().clone()
    }

    fn fail(&self, words: String) -> String {
        *self.0.failure.borrow_mut() = Some(words.clone());
        words
    }

    fn filter(&self) -> Result<(), String> {
        let Some(filter) = &self.0.filter else { return Ok(()) };
        let listener = filter.install().map_err(|e| self.fail(format!("linux.seccomp: {e}")))?;
        if let (Some(listener), Some(socket)) = (listener, self.0.listener) {
            let fds = [listener.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            let byte = [io::IoSlice::new(b"l")];
            sendmsg::<()>(socket, &byte, &rights, MsgFlags::MSG_NOSIGNAL, None)
                .map_err(|e| self.fail(format!("linux.seccomp: send the listener: {e}")))?;
        }
        Ok(())
    }

    /// Without no_new_privs only who may administer can install a filter, so that
    /// comes before privileges are dropped; else as late as possible. Who answers
    /// for the filter has to be told while the container is made.
    fn filters_early(&self) -> bool {
        !self.0.no_new_privileges || self.0.listener.is_some()
    }
}

impl Executor for Become {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let program = process.and_then(|process| process.args().as_ref()?.first());
        let program = program.map(String::as_str).unwrap_or_default();
        let env = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
        let invalid = ExecutorValidationError::ArgValidationError;
        let found = find(program, env).map_err(|words| invalid(self.fail(words)))?;
        *self.0.found.borrow_mut() = Some(found);
        adjust(spec).map_err(|words| invalid(self.fail(words)))?;
        streams::reopen_null().map_err(|e| invalid(self.fail(format!("open /dev/null: {e}"))))?;
        if let (Some(process), false) = (process, self.0.in_user_namespace) {
            limit_resources(0, process).map_err(|e| invalid(self.fail(e.report().to_string())))?;
        }
        if self.filters_early() {
            self.filter().map_err(invalid)?;
        }
        drop_privileges(&self.0.capabilities, &LinuxSyscall)
            .map_err(|e| invalid(self.fail(format!("process.capabilities: {e}"))))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // They are in the specification, in their order.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let other = ExecutorError::Other;
        let process = spec.process().as_ref().ok_or_else(|| other("no process".into()))?;
        let found = self.0.found.borrow_mut().take().unwrap_or_default();
        let text = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|_| other(self.fail("a zero byte".into())))
        };
        let path = text(found.as_os_str())?;
        let args = process.args().iter().flatten();
        let args = args.map(|arg| text(OsStr::new(arg))).collect::<Result<Vec<_>, _>>()?;
        let mut env: Vec<_> = process.env().iter().flatten().cloned().collect();
        if self.0.is_homeless {
            env.retain(|entry| !entry.starts_with("HOME="));
            env.push(format!("HOME={}", home(process.user().uid())));
        }
        let env = env.iter().map(|entry| text(OsStr::new(entry))).collect::<Result<Vec<_>, _>>()?;
        // What this program ignores, the user's need not.
        process::reset_signals();
        if !self.filters_early() {
            self.filter().map_err(other)?;
        }
        let Err(error) = execve(&path, &args, &env);
        let words = format!("exec {}: {}", found.display(), words(error.into()));
        Err(other(self.fail(words)))
    }
}

/// What libcontainer leaves out, inside the container.
fn adjust(spec: &Spec) -> Result<(), String> {
    for mount in spec.mounts().iter().flatten() {
        let options = mount.options().iter().flatten();
        if options.clone().any(|option| option == "ro") {
            protect(mount)
                .map_err(|e| format!("mounts[{}]: ro: {e}", mount.destination().display()))?;
        }
        for flags in options.filter_map(|option| propagation(option)) {
            let target = mount.destination();
            nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
                .map_err(|e| format!("mounts[{}]: propagation: {e}", target.display()))?;
        }
    }
    let size = spec.process().as_ref().filter(|process| process.terminal() == Some(true));
    if let Some(size) = size.and_then(|process| process.console_size()) {
        let limited = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        tty::resize(io::stdin().as_fd(), limited(size.width()), limited(size.height()))
            .map_err(|e| format!("process.consoleSize: {e}"))?;
    }
    Ok(())
}

/// Makes a mount read-only where libcontainer does not: it leaves the v1
/// hierarchies writable, with the container's own limits in them, and `/dev`,
/// where it had yet to make devices.
fn protect(mount: &Mount) -> Result<(), SyscallError> {
    let tree = match (mount.typ().as_deref(), mount.destination()) {
        (Some("cgroup"), _) => linux::AT_RECURSIVE,
        (_, point) if point == Path::new("/dev") => 0,
        _ => return Ok(()),
    };
    let attributes =
        MountAttr { attr_set: linux::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of_val(&attributes);
    // The path is absolute, so the descriptor is not looked at.
    LinuxSyscall.mount_setattr(io::stdin().as_fd(), mount.destination(), tree, &attributes, size)
}

/// How a mount and its copies follow each other (mount(8), "Shared subtrees").
fn propagation(option: &str) -> Option<MsFlags> {
    let (recursive, name) = match option.strip_prefix('r') {
        Some(name) => (MsFlags::MS_REC, name),
        None => (MsFlags::empty(), option),
    };
    let kind = match name {
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "private" => MsFlags::MS_PRIVATE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

/// The home of a user by the container's own list of them, as text; `/` if it
/// has none.
fn home(uid: u32) -> String {
    let read = || {
        let mut options = OpenOptions::new();
        // An image may have a FIFO there.
        let file = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open("/etc/passwd")?;
        let mut text = Vec::new();
        file.take(MAX_PASSWD_BYTES).read_to_end(&mut text)?;
        io::Result::Ok(text)
    };
    let text = read().unwrap_or_default();
    let home = home_in(&String::from_utf8_lossy(&text), uid);
    home.unwrap_or_else(|| "/".into())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut entries = lines.filter(|fields| fields.get(2) == Some(&&*uid));
    let home = entries.next().and_then(|fields| fields.get(5).map(|home| (*home).to_owned()));
    home.filter(|home| !home.is_empty() && !home.contains('\0'))
}

/// The program, looked for as Go's `exec.LookPath` does it, in its words.
fn find(program: &str, env: &[String]) -> Result<PathBuf, String> {
    let quoted = format!("exec: {program:?}");
    if program.contains('/') {
        return match executable(Path::new(program)) {
            Ok(()) => Ok(program.into()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Err(format!("{quoted}: permission denied"))
            }
            Err(e) => Err(format!("{quoted}: stat {program}: {}", words(e))),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = false;
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let candidate = Path::new(folder).join(program);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) => denied |= e.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    match denied {
        true => Err(format!("{quoted}: permission denied")),
        false => Err(format!("{quoted}: executable file not found in $PATH")),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() {
        return Err(nix::errno::Errno::EACCES.into());
    }
    let at = nix::fcntl::AT_FDCWD;
    Ok(faccessat(at, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)?)
}

/// A system error in the kernel's words alone, in lower case as Go has them.
fn words(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_read_as_text() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nu:x:7:7::/home/u:\nn:x:8:8:::\n";
        for (uid, home) in [(0, Some("/root")), (7, Some("/home/u")), (8, None), (9, None)] {
            assert_eq!(home_in(passwd, uid).as_deref(), home, "{uid}");
        }
    }

    #[test]
    fn programs_are_found_as_by_go() {
        let env = ["PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find("sh", &env), Ok("/bin/sh".into()));
        assert_eq!(find("/bin/sh", &[]), Ok("/bin/sh".into()));
        for (program, words) in [
            ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
            ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
            ("/bin", "exec: \"/bin\": permission denied"),
        ] {
            assert_eq!(find(program, &env), Err(words.to_owned()));
        }
        assert_eq!(find("sh", &[]), Err("exec: \"sh\": executable file not found in $PATH".into()));
    }
}
