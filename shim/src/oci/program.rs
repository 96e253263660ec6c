//! The user's program: looked for, given its environment, and become.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::AtFlags,
    unistd::{AccessFlags, execve, faccessat},
};
use oci_spec::runtime::Process;
use shim_protocol::{Error, ErrorKind, Result};

use super::words;

/// Most that is read of a container's list of users, in bytes.
const MAX_PASSWD_BYTES: u64 = 1 << 20;

/// A program with all that it gets.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks for a process's program, as the user that it will be.
    ///
    /// # Errors
    /// `Unknown` when there is none, in runc's words: clients read them.
    pub(super) fn of(process: &Process) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let env = environment(process);
        let name = args.first().map(String::as_str).unwrap_or_default();
        let path = find(name, &env).map_err(|words| Error::new(ErrorKind::Unknown, words))?;
        let text = |words: &[String], field: &str| {
            let texts = words.iter().map(|word| CString::new(word.as_bytes()));
            texts
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|_| Error::invalid(format!("{field}: one has a zero byte")))
        };
        Ok(Self { path, args: text(args, "process.args")?, env: text(&env, "process.env")? })
    }

    /// Becomes it.
    ///
    /// # Errors
    /// Those of execve(2).
    pub(super) fn execute(&self) -> Result<Infallible> {
        let path = CString::new(self.path.as_os_str().as_bytes())
            .map_err(|_| Error::invalid("process.args[0] has a zero byte"))?;
        let Err(error) = execve(&path, &self.args, &self.env);
        let words = format!("exec {}: {}", self.path.display(), words(&error.into()));
        Err(Error::new(ErrorKind::Unknown, words))
    }
}

/// A process's variables, each once, as it was said last; and where its user is
/// at home.
pub(super) fn environment(process: &Process) -> Vec<String> {
    let asked = process.env().as_deref().unwrap_or_default();
    let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
    let mut env: Vec<String> = Vec::with_capacity(asked.len() + 1);
    for entry in asked.iter().rev() {
        let is_known =
            name(entry).is_some_and(|new| env.iter().any(|e| name(e).as_ref() == Some(&new)));
        if !is_known {
            env.push(entry.clone());
        }
    }
    env.reverse();
    // By no library: one would load code that the image names.
    if !env.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        env.retain(|entry| entry != "HOME=");
        env.push(format!("HOME={}", home(process.user().uid())));
    }
    env
}

/// The home of a user by the container's own list of them, as text; `/` if it
/// has none.
fn home(uid: u32) -> String {
    let read = || {
        let mut options = OpenOptions::new();
        // An image may have a FIFO there, or a terminal.
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let file = options.read(true).custom_flags(flags).open("/etc/passwd")?;
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
            Err(e) => Err(format!("{quoted}: stat {program}: {}", words(&e))),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
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
    fn each_variable_is_there_once() {
        let environment = |env: &[&str]| {
            let mut process = Process::default();
            process.set_env(Some(env.iter().map(|entry| (*entry).to_owned()).collect()));
            super::environment(&process)
        };
        assert_eq!(environment(&["A=1", "HOME=/x", "A=2", "B"]), ["HOME=/x", "A=2", "B"]);
        // Root's home, by this machine's list.
        for env in [&["HOME="][..], &["HOME=/x", "HOME="], &[]] {
            assert_eq!(environment(env), ["HOME=/root"], "{env:?}");
        }
        assert_eq!(environment(&["HOME=", "HOME=/x"]), ["HOME=/x"]);
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
