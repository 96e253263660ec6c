//! `exec`: a process described by a file, or by flags on top of the
//! container's own process.

use std::{fs, path::Path};

use serde_json::{Value, json};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{Flag, Flags, Words, id, read, refuse_fds, streams, switch, text, value};
use crate::{
    oci::{self, Store},
    sys::wait,
};

const EXEC: [Flag; 16] = [
    value("process").or('p'),
    value("console-socket"),
    value("pid-file"),
    value("cwd"),
    value("env").or('e'),
    value("user").or('u'),
    value("additional-gids").or('g'),
    value("cap").or('c'),
    value("apparmor"),
    value("process-label"),
    value("preserve-fds"),
    value("cgroup"),
    switch("tty").or('t'),
    switch("detach").or('d'),
    switch("no-new-privs"),
    switch("ignore-paused"),
];

/// Adds a process; gives its status, or 0 if it is to be left alone.
pub(super) fn exec(store: &Store, words: &mut Words<'_>) -> Result<u8> {
    let (flags, id) = id(words, &EXEC)?;
    refuse_fds(&flags)?;
    for flag in ["cgroup", "process-label"] {
        if flags.has(flag) {
            return Err(Error::unimplemented(format!("--{flag}: {}", oci::REMEDY)));
        }
    }
    let process = match flags.path("process")? {
        Some(path) => read(&path)?,
        None => {
            let record = oci::state(store, &id)?.1;
            let args = words.map(|word| text("argument", &word)).collect::<Result<Vec<_>>>()?;
            describe(&record.bundle, &flags, args)?.to_string().into_bytes()
        }
    };
    let pid_file = flags.path("pid-file")?;
    let request = oci::Exec {
        id: &id,
        process: &process,
        streams: streams(&flags)?,
        pid_file: pid_file.as_deref(),
        sibling: false,
        own: None,
    };
    let pid = oci::exec(store, request)?;
    match flags.has("detach") {
        true => Ok(0),
        false => wait::wait(pid).context("wait for", pid),
    }
}

fn describe(bundle: &Path, flags: &Flags, args: Vec<String>) -> Result<Value> {
    let path = bundle.join("config.json");
    let config = fs::read(&path).context("read", path.display())?;
    let mut config: Value = serde_json::from_slice(&config)
        .map_err(std::io::Error::from)
        .context("decode", path.display())?;
    let mut process = config["process"].take();
    if !process.is_object() {
        process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
    }
    process["args"] = json!(args);
    process["terminal"] = json!(flags.has("tty"));
    if let Some(cwd) = flags.last("cwd") {
        process["cwd"] = json!(text("--cwd", cwd)?);
    }
    let env = process["env"].take();
    let mut env = env.as_array().cloned().unwrap_or_default();
    env.extend(flags.texts("env")?.into_iter().map(Value::from));
    process["env"] = json!(env);
    if let Some(user) = flags.last("user") {
        let user = text("--user", user)?;
        let (uid, gid) = user.split_once(':').unwrap_or((&user, "0"));
        process["user"] = json!({"uid": number("--user", uid)?, "gid": number("--user", gid)?});
    }
    let groups = flags.texts("additional-gids")?;
    if !groups.is_empty() {
        let groups = groups.iter().map(|gid| number("--additional-gids", gid));
        process["user"]["additionalGids"] = json!(groups.collect::<Result<Vec<_>>>()?);
    }
    for capability in flags.texts("cap")? {
        for set in ["bounding", "effective", "permitted"] {
            let held = process["capabilities"][set].take();
            let mut held = held.as_array().cloned().unwrap_or_default();
            held.push(json!(capability));
            process["capabilities"][set] = json!(held);
        }
    }
    if flags.has("no-new-privs") {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = flags.last("apparmor") {
        process["apparmorProfile"] = json!(text("--apparmor", profile)?);
    }
    Ok(process)
}

fn number(name: &str, text: &str) -> Result<u32> {
    text.parse().map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, format!("{name}: {text:?} is no number"), e)
    })
}
