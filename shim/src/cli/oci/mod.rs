//! `oci`: the embedded runtime as a command line, with runc's commands and
//! flags (`man 8 runc`), for whoever drives OCI runtimes.
//!
//! ```text
//! containerd-shim-runc-v2 oci [--root DIR] create|start|state|kill|delete|exec|… ID
//! ```

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    iter::Peekable,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    str::FromStr,
};

use nix::sys::signal::Signal;
use serde_json::json;
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use crate::{
    log::{self, Format, Rfc3339},
    oci::{self, Record, Store, Streams},
    runtime::{Status, embedded},
    sys::{program, wait},
};

mod flags;
mod process;

use flags::{Flag, Flags, switch, text, value};

/// The word on the command line.
pub const COMMAND: &str = "oci";
/// Where containers are kept when `--root` names nothing else.
const ROOT: &str = "/run/containerd/oci";
/// Most that is read of a file that a flag names, in bytes.
const MAX_FILE_BYTES: u64 = 10 << 20;

/// Flags before the command. Those for CRIU and rootless containers change
/// nothing here.
const GLOBAL: [Flag; 8] = [
    value("root"),
    value("log"),
    value("log-format"),
    value("criu"),
    value("rootless"),
    switch("debug"),
    switch("systemd-cgroup"),
    switch("version").or('v'),
];
const CREATE: [Flag; 7] = [
    value("bundle").or('b'),
    value("console-socket"),
    value("pid-file"),
    value("preserve-fds"),
    switch("no-pivot"),
    switch("no-new-keyring"),
    switch("detach").or('d'),
];

/// Commands that take this program into a container.
const MAKE_PROCESSES: [&str; 3] = ["create", "exec", "run"];

type Words<'a> = Peekable<&'a mut dyn Iterator<Item = OsString>>;

/// Runs a command; gives the status to end with.
///
/// # Errors
/// Those of the command. They are in the log that `--log` names, too.
pub fn run(words: &mut dyn Iterator<Item = OsString>) -> Result<u8> {
    let mut words = words.peekable();
    let global = Flags::take(&mut words, &GLOBAL)?;
    let path = global.path("log")?;
    let file = path.as_deref().map(|path| {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.context("open", path.display())
    });
    let file = file.transpose()?;
    let format = match global.last("log-format").is_some_and(|format| format == "json") {
        true => Format::Json,
        false => Format::Text,
    };
    let own = file.as_ref().map(File::try_clone).transpose().context("clone", "the log")?;
    log::init_own(global.has("debug"), own.map(|file| (file, format)));
    let result = command(&global, &mut words);
    // What drives runtimes reads the reason of a failure there.
    if let (Err(error), Some(mut file)) = (&result, file) {
        let line = format.line("error", &error.report().to_string(), "");
        file.write_all(line.as_bytes()).context("write", "the log")?;
    }
    result
}

fn command(global: &Flags, words: &mut Words<'_>) -> Result<u8> {
    if global.has("version") {
        println!("{COMMAND} version {}\nspec: 1.2.1", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let systemd_cgroup = global.has("systemd-cgroup");
    let store = Store::new(global.path("root")?.unwrap_or_else(|| ROOT.into()));
    let verb = words.next().unwrap_or_default();
    if MAKE_PROCESSES.iter().any(|known| verb == *known) {
        program::seal_self().context("seal", "this program")?;
    }
    match verb.to_str().unwrap_or_default() {
        "create" => create(&store, words, systemd_cgroup).map(|_| 0),
        "run" => run_container(&store, words, systemd_cgroup),
        "start" => oci::start(&store, &id(words, &[])?.1).map(|()| 0),
        "state" => print_state(&store, words).map(|()| 0),
        "kill" => kill(&store, words).map(|()| 0),
        "delete" => {
            let (flags, id) = id(words, &[switch("force").or('f')])?;
            oci::delete(&store, &id, flags.has("force")).map(|()| 0)
        }
        "exec" => process::exec(&store, words),
        "ps" => print_processes(&store, words).map(|()| 0),
        "list" => list(&store, words).map(|()| 0),
        "pause" => oci::pause(&store, &id(words, &[])?.1).map(|()| 0),
        "resume" => oci::resume(&store, &id(words, &[])?.1).map(|()| 0),
        "update" => {
            let (flags, id) = id(words, &[value("resources").or('r')])?;
            let path = flags.path("resources")?;
            let path = path.ok_or_else(|| Error::invalid("update needs --resources"))?;
            oci::update(&store, &id, &read(&path)?).map(|()| 0)
        }
        "features" => {
            print(&embedded::features()?)?;
            Ok(0)
        }
        "checkpoint" | "restore" => {
            Err(Error::unimplemented(format!("{}: {}", verb.display(), oci::REMEDY)))
        }
        "" => Err(Error::invalid("no command")),
        verb => Err(Error::invalid(format!("unknown command {verb:?}"))),
    }
}

/// The flags of a command and the container it is about.
fn id(words: &mut Words<'_>, known: &[Flag]) -> Result<(Flags, Id)> {
    let flags = Flags::take(words, known)?;
    let id = words.next().ok_or_else(|| Error::invalid("no container id"))?;
    Ok((flags, Id::new("container id", &text("container id", &id)?)?))
}

fn create(store: &Store, words: &mut Words<'_>, systemd_cgroup: bool) -> Result<(Id, bool)> {
    let (flags, id) = id(words, &CREATE)?;
    refuse_fds(&flags)?;
    let bundle = match flags.path("bundle")? {
        Some(bundle) => bundle,
        None => std::env::current_dir().context("find", "the bundle")?,
    };
    let pid_file = flags.path("pid-file")?;
    let request = oci::Create {
        id: &id,
        bundle: &bundle,
        streams: streams(&flags)?,
        pid_file: pid_file.as_deref(),
        no_pivot_root: flags.has("no-pivot"),
        no_new_keyring: flags.has("no-new-keyring"),
        systemd_cgroup,
        sibling: false,
        own: None,
        prepared: None,
    };
    let pid = oci::create(store, request)?;
    tracing::debug!(container = %id, pid, "created");
    Ok((id, flags.has("detach")))
}

/// Creates and starts a container; unless told to leave it, waits for its end
/// and removes it.
fn run_container(store: &Store, words: &mut Words<'_>, systemd_cgroup: bool) -> Result<u8> {
    let (id, detach) = create(store, words, systemd_cgroup)?;
    let run = || {
        oci::start(store, &id)?;
        if detach {
            return Ok(0);
        }
        wait::wait(oci::state(store, &id)?.1.pid).context("wait for", &id)
    };
    let status = run();
    // One that cannot be started is nobody's.
    if !detach || status.is_err() {
        oci::delete(store, &id, true)?;
    }
    status
}

fn refuse_fds(flags: &Flags) -> Result<()> {
    match flags.last("preserve-fds") {
        Some(count) if count != "0" => {
            Err(Error::unimplemented(format!("--preserve-fds: {}", oci::REMEDY)))
        }
        _ => Ok(()),
    }
}

/// Our own streams, or a terminal.
fn streams(flags: &Flags) -> Result<Streams> {
    if let Some(console) = flags.path("console-socket")? {
        return Ok(Streams { console: Some(console), ..Streams::default() });
    }
    let own = || -> io::Result<[Option<OwnedFd>; 3]> {
        Ok([
            Some(io::stdin().as_fd().try_clone_to_owned()?),
            Some(io::stdout().as_fd().try_clone_to_owned()?),
            Some(io::stderr().as_fd().try_clone_to_owned()?),
        ])
    };
    Ok(Streams { fds: own().context("clone", "the standard streams")?, console: None })
}

fn kill(store: &Store, words: &mut Words<'_>) -> Result<()> {
    let (flags, id) = id(words, &[switch("all").or('a')])?;
    let signal = words.next().unwrap_or_else(|| "SIGTERM".into());
    let signal = signal_number(&text("signal", &signal)?)?;
    // runc's users expect it, and those of newer ones still write it.
    let all = flags.has("all") || words.next().is_some_and(|word| word == "--all");
    oci::kill(store, &id, signal, all)
}

fn signal_number(text: &str) -> Result<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return Ok(number);
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Signal::from_str(&name)
        .map(|signal| signal as u32)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, format!("signal {text:?}"), e))
}

fn describe(id: &Id, status: Status, record: &Record) -> serde_json::Value {
    json!({
        "ociVersion": record.oci_version,
        "id": &**id,
        // One that has ended has none any more.
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "status": status.to_string(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created.map(|time| Rfc3339(time).to_string()),
        "annotations": record.annotations,
        "owner": "",
    })
}

fn print_state(store: &Store, words: &mut Words<'_>) -> Result<()> {
    let (_, id) = id(words, &[])?;
    let (status, record) = oci::state(store, &id)?;
    print(format!("{:#}", describe(&id, status, &record)).as_bytes())
}

fn print_processes(store: &Store, words: &mut Words<'_>) -> Result<()> {
    let (flags, id) = id(words, &[value("format").or('f')])?;
    let pids = oci::ps(store, &id)?;
    match flags.last("format").is_some_and(|format| format == "json") {
        true => print(json!(pids).to_string().as_bytes()),
        false => {
            let lines: Vec<_> = pids.iter().map(u32::to_string).collect();
            print(format!("PID\n{}", lines.join("\n")).as_bytes())
        }
    }
}

fn list(store: &Store, words: &mut Words<'_>) -> Result<()> {
    let flags = Flags::take(words, &[value("format").or('f'), switch("quiet").or('q')])?;
    let mut found = Vec::new();
    for id in store.list()? {
        match oci::state(store, &id) {
            Ok((status, record)) => found.push((id, status, record)),
            // Removed meanwhile.
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    if flags.has("quiet") {
        return found.iter().try_for_each(|(id, ..)| print(id.as_bytes()));
    }
    if flags.last("format").is_some_and(|format| format == "json") {
        let all: Vec<_> = found.iter().map(|(id, s, record)| describe(id, *s, record)).collect();
        return print(json!(all).to_string().as_bytes());
    }
    print(b"ID\tPID\tSTATUS\tBUNDLE")?;
    found.iter().try_for_each(|(id, status, record)| {
        print(format!("{id}\t{}\t{status}\t{}", record.pid, record.bundle.display()).as_bytes())
    })
}

/// Reads a file that a flag names; "-" is standard input.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let stdin = path.file_name().is_some_and(|name| name == "-");
    let read = match stdin {
        true => io::stdin().take(MAX_FILE_BYTES).read_to_end(&mut content),
        false => {
            File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut content))
        }
    };
    read.context_as(ErrorKind::InvalidArgument, "read", path.display())?;
    Ok(content)
}

fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.write_all(b"\n")).context("print", "the answer")
}
