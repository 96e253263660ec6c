//! Filters of system calls.

use std::{
    io::{IoSliceMut, Read},
    os::{fd::AsRawFd, unix::net::UnixListener},
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::harness::Bed;

fn filter(syscalls: Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    })
}

const TRY: &str = "mkdir /made 2>&1 | grep -oE 'Permission denied|not permitted|Function not implemented'; \
                   grep Seccomp: /proc/self/status | tr -d '\\t'";

#[test]
fn calls_are_refused_with_and_without_new_privileges() {
    let rules = json!([{
        "names": ["mkdir", "mkdirat", "a_call_of_tomorrow"],
        "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
    }]);
    for no_new_privileges in [json!(null), json!(false), json!(true)] {
        let Some(bed) = Bed::new("filter", TRY) else { return };
        let bed = bed
            .set("/linux/seccomp", filter(rules.clone()))
            .set("/process/noNewPrivileges", no_new_privileges.clone());
        assert_eq!(bed.output(), "Permission denied\nSeccomp:2\n", "{no_new_privileges}");
    }
}

#[test]
fn what_is_added_is_filtered_too() {
    let Some(bed) = Bed::new("filter-exec", "sleep 1000") else { return };
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
    let bed = bed.set("/linux/seccomp", filter(rules));
    bed.start();
    assert_eq!(bed.exec(TRY), "not permitted\nSeccomp:2\n");
}

/// A list of what is allowed, as container engines have it.
#[test]
fn all_but_what_is_named_is_refused() {
    let Some(bed) =
        Bed::new("allowed", "echo hello; unshare -i true 2>&1 | grep -o 'not permitted'")
    else {
        return;
    };
    let allowed: Vec<_> = [
        "accept",
        "accept4",
        "access",
        "arch_prctl",
        "brk",
        "clone",
        "clone3",
        "close",
        "dup",
        "dup2",
        "dup3",
        "execve",
        "exit",
        "exit_group",
        "faccessat",
        "faccessat2",
        "fcntl",
        "fork",
        "fstat",
        "getcwd",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getpid",
        "getppid",
        "getrandom",
        "getrlimit",
        "getuid",
        "ioctl",
        "lseek",
        "lstat",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "pipe",
        "pipe2",
        "poll",
        "pread64",
        "prlimit64",
        "read",
        "readlink",
        "readlinkat",
        "readv",
        "recvfrom",
        "recvmsg",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "select",
        "sendmsg",
        "set_robust_list",
        "set_tid_address",
        "setsid",
        "sigaltstack",
        "socket",
        "stat",
        "statfs",
        "statx",
        "sysinfo",
        "umask",
        "uname",
        "vfork",
        "wait4",
        "write",
        "writev",
        "capset",
        "capget",
        "rt_sigreturn",
        "restart_syscall",
    ]
    .into();
    let bed = bed.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {"names": allowed, "action": "SCMP_ACT_ALLOW"},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
            ],
        }),
    );
    assert_eq!(bed.output(), "hello\nnot permitted\n");
}

#[test]
fn arguments_are_compared() {
    // kill(2) with signal 0 of oneself, and with others.
    let script = "kill -0 $$ && echo zero; kill -CONT $$ 2>/dev/null || echo cont";
    let Some(bed) = Bed::new("arguments", script) else { return };
    let rules = json!([{
        "names": ["kill"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_GT"}],
    }]);
    assert_eq!(bed.set("/linux/seccomp", filter(rules)).output(), "zero\ncont\n");
}

#[test]
fn a_forbidden_call_ends_the_process() {
    let Some(bed) = Bed::new("killed", "mkdir /made; echo $?") else { return };
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]);
    // 128 and SIGSYS.
    assert_eq!(bed.set("/linux/seccomp", filter(rules)).output(), "159\n");
}

#[test]
fn somebody_answers_for_calls() {
    let Some(bed) = Bed::new("notify", "true") else { return };
    let path = bed.path("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let mut profile = filter(json!([{"names": ["swapoff"], "action": "SCMP_ACT_NOTIFY"}]));
    profile["listenerPath"] = json!(path);
    profile["listenerMetadata"] = json!("about it");
    let bed = bed.set("/linux/seccomp", profile);
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = [0; 4096];
        let mut space = nix::cmsg_space!([nix::libc::c_int; 2]);
        let mut buffers = [IoSliceMut::new(&mut text)];
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())
                .unwrap();
        let fds: usize = message
            .cmsgs()
            .unwrap()
            .map(|part| match part {
                ControlMessageOwned::ScmRights(fds) => fds.len(),
                _ => 0,
            })
            .sum();
        let length = message.bytes;
        let mut json = text[..length].to_vec();
        stream.read_to_end(&mut json).unwrap();
        (fds, serde_json::from_slice::<Value>(&json).unwrap())
    });
    bed.output();
    let (fds, state) = heard.join().unwrap();
    assert_eq!(
        (fds, &state["fds"], &state["metadata"]),
        (1, &json!(["seccompFd"]), &json!("about it"))
    );
    assert_eq!(state["state"]["id"], json!(bed.id));
}

/// What the runtime itself does on the way is nothing that a profile has to
/// allow.
#[test]
fn a_profile_need_not_allow_what_only_the_runtime_does() {
    let ours = [
        "accept4",
        "accept",
        "capset",
        "capget",
        "close_range",
        "openat2",
        "recvfrom",
        "rt_sigaction",
        "sendmsg",
        "setresuid",
        "statx",
        "socket",
        "faccessat2",
    ];
    let rules = json!([{"names": ours, "action": "SCMP_ACT_KILL_PROCESS"}]);
    for no_new_privileges in [false, true] {
        let Some(bed) = Bed::new("strict", "exec echo hello") else { return };
        // A program that does none of it either.
        let bed = bed
            .set("/process/args", json!(["/bin/busybox", "echo", "hello"]))
            .set("/process/user", json!({"uid": 7, "gid": 8}))
            .set("/linux/seccomp", filter(rules.clone()))
            .set("/process/noNewPrivileges", json!(no_new_privileges));
        let output = bed.run();
        assert_eq!(crate::harness::text(&output.stdout), "hello\n", "{:?}", output);
    }
}

/// Nobody could answer for it, as it is how the listener is handed over.
#[test]
fn a_call_that_would_wait_for_itself_is_refused() {
    let Some(bed) = Bed::new("deadlock", "true") else { return };
    let rules = json!([{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]);
    let said = bed.set("/linux/seccomp", filter(rules)).refusal();
    assert!(said.contains("SCMP_ACT_NOTIFY for sendmsg"), "{said}");
}
