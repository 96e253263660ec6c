//! CRIU, the program by which command lines write containers to disk and bring
//! them back: whether it can, and what it has said when it could not.

use std::{
    fmt,
    fs::{self, DirBuilder, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};
use shim_protocol::{Context, Error, ErrorKind, Result, note};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{Checkpoint, call::TempFile};
use crate::{
    reaper::{KillOnDrop, Reaper},
    sys::command,
};

/// Where runtimes look for it is `PATH`, too.
const PROGRAM: &str = "criu";
/// What crun needs to leave a namespace's pids alone (crun, `src/libcrun/criu.c`).
/// runc would take versions that nobody has any more.
const OLDEST: Version = Version(3, 15, 0);
/// The oldest for Linux 6.13 and later, which have split the data of the vDSO
/// (criu, pull request 2539).
const FOR_NEW_KERNELS: Version = Version(4, 1, 0);

/// How much is read of what it prints, in bytes.
const OUTPUT_BYTES: u64 = 64 << 10;

/// How many errors of a log are shown.
const SHOWN_ERRORS: usize = 4;

/// The log of a checkpoint in a work folder.
pub(super) const DUMP_LOG: &str = "dump.log";
/// The log of a restore in a work folder.
pub(super) const RESTORE_LOG: &str = "restore.log";

/// Beside the images of a checkpoint: what it was made with, which a restore
/// has to allow again.
const OPTIONS_FILE: &str = "checkpoint-options.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    /// Reads what `criu --version` prints: `Version: 3.17.1` in its first line.
    fn parse(text: &str) -> Option<Self> {
        let number = text.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
        let mut parts = number.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or_default()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        write!(f, "{major}.{minor}")?;
        if *patch == 0 { Ok(()) } else { write!(f, ".{patch}") }
    }
}

/// Asks CRIU whether it can work here. Nothing is done to any container.
///
/// # Errors
/// `FailedPrecondition` when it is missing or too old, or the kernel is not one
/// that it knows, with the version that was found and the one that is needed.
pub(super) async fn check(reaper: &Reaper, work: &Path) -> Result<()> {
    let told = ask(reaper, work, "--version").await.map_err(|e| match e.kind() {
        ErrorKind::FailedPrecondition => {
            let text = format!("CRIU is not installed, and {OLDEST} or newer is needed");
            Error::caused(ErrorKind::FailedPrecondition, text, e)
        }
        _ => e,
    })?;
    let version = Version::parse(&told.output).ok_or_else(|| {
        let said = if told.output.is_empty() { &told.complaint } else { &told.output };
        let said = said.trim();
        Error::precondition(format!(
            "CRIU {OLDEST} or newer is needed, and {PROGRAM} does not tell its version: {said:?}"
        ))
    })?;
    if version < OLDEST {
        let text = format!("CRIU {OLDEST} or newer is needed, and {version} is installed");
        return Err(Error::precondition(text));
    }
    let told = ask(reaper, work, "check").await?;
    if told.status == 0 {
        return Ok(());
    }
    // The rest follows from the first.
    let reason = errors(&told.complaint).next().unwrap_or("it does not say why");
    let needed = match version < FOR_NEW_KERNELS {
        true => format!("; CRIU {FOR_NEW_KERNELS} or newer is needed"),
        false => String::new(),
    };
    Err(Error::precondition(format!("CRIU {version} cannot work on this kernel: {reason}{needed}")))
}

struct Told {
    status: u32,
    output: String,
    complaint: String,
}

/// Runs it with one argument.
async fn ask(reaper: &Reaper, work: &Path, argument: &str) -> Result<Told> {
    let mut log = TempFile::new(work, "criu-log")?;
    let mut command = Command::new(PROGRAM);
    command
        .arg(argument)
        .current_dir(work)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.file().try_clone().context("clone", "log")?);
    command::die_with_parent(&mut command);
    let child = reaper.spawn(&mut command)?;
    drop(command);
    let mut process = KillOnDrop::new(child.pid, child.exit);
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout {
        let reader = pipe::Receiver::from_owned_fd(stdout).context("read", "output of CRIU")?;
        let mut reader = reader.take(OUTPUT_BYTES);
        reader.read_to_end(&mut output).await.context("read", "output of CRIU")?;
    }
    let status = process.ended().await.status;
    let complaint = start_of(log.file()).context("read", "log of CRIU")?;
    Ok(Told { status, output: String::from_utf8_lossy(&output).into_owned(), complaint })
}

fn start_of(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What its log has of errors. Lines look like
/// `Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds`, with a time
/// before them in log files.
fn errors(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("Error (")?;
        Some(rest.split_once("): ")?.1.trim())
    })
}

/// Removes the log of an earlier run, which would be taken for that of the next.
///
/// # Errors
/// Those of the disk.
pub(super) fn forget(work: &Path, log: &str) -> Result<()> {
    let path = work.join(log);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
    .context("remove", path.display())
}

/// Why CRIU failed, as its log in a work folder says; nothing if there is none.
/// For people: nothing is decided by it.
pub(super) fn complaint(work: &Path, log: &str) -> Option<String> {
    let mut file = File::open(work.join(log)).ok()?;
    // The reason stands near the end of a long log.
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // Some are none that matter, and the last one says that there were others.
    let errors: Vec<&str> = errors(&text).collect();
    let last = &errors[errors.len().saturating_sub(SHOWN_ERRORS)..];
    (!last.is_empty()).then(|| last.join("; "))
}

/// What of a checkpoint's options its restore needs too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Allowed {
    pub(super) open_tcp: bool,
    pub(super) external_unix_sockets: bool,
    pub(super) terminal: bool,
    pub(super) file_locks: bool,
    pub(super) empty_namespaces: Vec<String>,
    pub(super) cgroups_mode: String,
}

impl From<&Checkpoint> for Allowed {
    fn from(request: &Checkpoint) -> Self {
        Self {
            open_tcp: request.open_tcp,
            external_unix_sockets: request.external_unix_sockets,
            terminal: request.terminal,
            file_locks: request.file_locks,
            empty_namespaces: request.empty_namespaces.clone(),
            cgroups_mode: request.cgroups_mode.clone(),
        }
    }
}

impl Allowed {
    /// Writes it to the folder that the images go to, which is made if need be;
    /// answers what was there before.
    ///
    /// # Errors
    /// `InvalidArgument` when something else has its name; those of the disk.
    pub(super) fn write(&self, images: &Path) -> Result<Before> {
        // What is in a process's memory is nobody else's concern.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(images);
        made.context("make", images.display())?;
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::caused(ErrorKind::Internal, "encode checkpoint options", e))?;
        let before = Before { content: content(images)?, path: images.join(OPTIONS_FILE) };
        note::write(&before.path, &text)?;
        Ok(before)
    }

    /// Reads it; checkpoints of others have none. The folder may come from
    /// anywhere, with anything by that name.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no file, or cannot be understood; those of the
    /// disk.
    pub(super) fn read(images: &Path) -> Result<Self> {
        let Some(text) = content(images)? else { return Ok(Self::default()) };
        serde_json::from_slice(&text).map_err(|e| {
            let path = images.join(OPTIONS_FILE);
            Error::caused(ErrorKind::InvalidArgument, format!("decode {}", path.display()), e)
        })
    }
}

/// What is said in a folder with images, if there is anything.
fn content(images: &Path) -> Result<Option<Vec<u8>>> {
    let path = images.join(OPTIONS_FILE);
    // Nothing is opened that is something else: opening a device may do things.
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("look at", path.display()),
        Ok(found) if found.is_file() => note::read(&path),
        Ok(_) => Err(Error::invalid(format!("{} is no file", path.display()))),
    }
}

/// What was in a folder before a checkpoint was begun there.
pub(super) struct Before {
    path: PathBuf,
    content: Option<Vec<u8>>,
}

impl Before {
    /// Has it as it was: no images came.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn put_back(self) -> Result<()> {
        match self.content {
            Some(content) => note::write(&self.path, &content),
            None => note::remove(&self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("Version: 3.17.1\n", Some(Version(3, 17, 1))),
            ("Version: 4.1\nGitID: v4.1-2-gabc\n", Some(Version(4, 1, 0))),
            ("Version: 3.19-dirty\n", Some(Version(3, 19, 0))),
            ("Version: four\n", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text:?}");
        }
        assert!(Version(3, 9, 0) < OLDEST && Version(4, 0, 1) < FOR_NEW_KERNELS);
        assert_eq!(Version(4, 1, 0).to_string(), "4.1");
        assert_eq!(Version(3, 17, 1).to_string(), "3.17.1");
    }

    #[test]
    fn errors_of_logs() {
        let log = "Warn  (criu/kerndat.c:1): no\n\
                   Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n\
                   Error (criu/crtools.c:260): Could not initialize\n";
        let first = "vdso: Unexpected rt vDSO area bounds";
        assert_eq!(errors(log).collect::<Vec<_>>(), [first, "Could not initialize"]);
        let log =
            "(00.01) Dumping\n(00.02) Error (criu/files-ext.c:98): Can't dump file 1\nError (";
        assert_eq!(errors(log).collect::<Vec<_>>(), ["Can't dump file 1"]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(complaint(folder.path(), DUMP_LOG), None);
        fs::write(folder.path().join(DUMP_LOG), log).unwrap();
        assert_eq!(complaint(folder.path(), DUMP_LOG).as_deref(), Some("Can't dump file 1"));
        forget(folder.path(), DUMP_LOG).unwrap();
        forget(folder.path(), DUMP_LOG).unwrap();
        assert_eq!(complaint(folder.path(), DUMP_LOG), None);
    }

    #[test]
    fn what_was_allowed_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Allowed::read(folder.path()).unwrap(), Allowed::default());
        let request = Checkpoint {
            open_tcp: true,
            file_locks: true,
            empty_namespaces: vec!["network".into()],
            ..Default::default()
        };
        let allowed = Allowed::from(&request);
        let images = folder.path().join("new/images");
        let nothing = allowed.write(&images).unwrap();
        assert_eq!(Allowed::read(&images).unwrap(), allowed);
        let first = Allowed::default().write(&images).unwrap();
        assert_eq!(Allowed::read(&images).unwrap(), Allowed::default());
        first.put_back().unwrap();
        assert_eq!(Allowed::read(&images).unwrap(), allowed);
        nothing.put_back().unwrap();
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
    }

    #[test]
    fn what_others_have_put_there_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OPTIONS_FILE);
        let refused = || {
            assert_eq!(
                Allowed::read(folder.path()).unwrap_err().kind(),
                ErrorKind::InvalidArgument
            );
        };
        let is_not_replaced = || {
            let written = Allowed::default().write(folder.path());
            assert_eq!(written.err().unwrap().kind(), ErrorKind::InvalidArgument);
        };
        fs::write(&path, "[").unwrap();
        refused();
        fs::remove_file(&path).unwrap();
        // Nobody will ever write to it.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused();
        is_not_replaced();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        refused();
    }
}
