//! The daemon as a process: configuration, start, signals, end.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{Bed, Origin, Pairing, Status, eventually, proc, program, run_plain, within};

tests::every_pairing!(
    sigterm_ends_open_streams,
    socket_is_for_root,
    shims_have_a_higher_oom_score,
    oom_score_is_set,
    socket_has_the_configured_owner,
    daemon_enters_its_cgroup;
    our_daemon:
    second_daemon_says_so,
    configuration_of_version_3,
    unreadable_configuration_is_named,
    sigusr1_dumps_the_tasks,
    stale_socket_is_no_obstacle,
);

/// Subscribers that never leave do not keep the daemon from ending.
async fn sigterm_ends_open_streams(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("calm", "sleep 1000").await?;
    let waiting = bed.process("calm", "");
    let (ended, waited) = tokio::join!(bed.daemon.stop(), waiting.wait());
    let ended = ended?;
    ensure!(ended.success(), "{ended}");
    waited.expect_err("the container has not ended");
    bed.daemon.start(&bed.sandbox).await?;
    events.sync().await?;
    bed.destroy(&task).await
}

/// Whoever reaches the socket is root on the machine.
async fn socket_is_for_root(bed: &mut Bed) -> Result<()> {
    let mode = fs::metadata(bed.daemon.socket())?.permissions().mode() & 0o777;
    ensure!(mode & 0o007 == 0, "mode {mode:o}");
    Ok(())
}

/// A shim goes before the daemon when memory runs out, by one point.
async fn shims_have_a_higher_oom_score(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("any", "sleep 1000").await?;
    let daemon = oom_score(bed.daemon.pid().context("daemon")?)?;
    let shim = oom_score(bed.sandbox.shim_of("any").context("shim")?)?;
    assert_eq!(shim, daemon + 1);
    bed.destroy(&task).await
}

/// The score in the file is that of the process, and its shims follow. (One
/// below that of the test would need a capability that not every root has.)
async fn oom_score_is_set(bed: &mut Bed) -> Result<()> {
    configure(bed, |file| format!("oom_score = 321\n{file}")).await?;
    assert_eq!(oom_score(bed.daemon.pid().context("daemon")?)?, 321);
    let task = bed.start_container("any", "sleep 1000").await?;
    assert_eq!(oom_score(bed.sandbox.shim_of("any").context("shim")?)?, 322);
    bed.destroy(&task).await
}

/// A group that may use the daemon.
async fn socket_has_the_configured_owner(bed: &mut Bed) -> Result<()> {
    configure(bed, |file| file.replace("[grpc]\n", "[grpc]\nuid = 1234\ngid = 5678\n")).await?;
    let socket = fs::metadata(bed.daemon.socket())?;
    assert_eq!((socket.uid(), socket.gid()), (1234, 5678));
    assert_eq!(socket.mode() & 0o007, 0, "{:o}", socket.mode());
    Ok(())
}

/// The daemon is where the file says, and its containers are not.
async fn daemon_enters_its_cgroup(bed: &mut Bed) -> Result<()> {
    let path = format!("{}/daemon", bed.sandbox.cgroup());
    let plain = fs::read_to_string(bed.daemon.config())?;
    configure(bed, |file| format!("{file}[cgroup]\npath = {path:?}\n")).await?;
    let task = bed.start_container("any", "sleep 1000").await?;
    let cgroups = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let daemon = cgroups(bed.daemon.pid().context("daemon")?)?;
    let inside = |text: &str| text.lines().any(|line| line.ends_with(&path));
    ensure!(inside(&daemon), "{daemon}");
    let container = cgroups(task.pid)?;
    ensure!(!inside(&container), "{container}");
    bed.destroy(&task).await?;

    // The cgroup is the administrator's, who takes it away again.
    configure(bed, |_| plain).await?;
    for parent in bed.sandbox.cgroups() {
        let left = parent.join("daemon");
        if left.exists() {
            // The original does not wait for its shims.
            eventually(async || {
                let inside = fs::read_to_string(left.join("cgroup.procs"))?;
                ensure!(inside.is_empty(), "in {}: {inside}", left.display());
                Ok(())
            })
            .await?;
            fs::remove_dir(left)?;
        }
    }
    Ok(())
}

/// Starts the daemon again, with another configuration.
async fn configure(bed: &mut Bed, change: impl FnOnce(String) -> String) -> Result<()> {
    bed.daemon.stop().await?;
    let file = fs::read_to_string(bed.daemon.config())?;
    fs::write(bed.daemon.config(), change(file))?;
    bed.daemon.start(&bed.sandbox).await
}

fn oom_score(pid: u32) -> Result<i32> {
    Ok(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim().parse()?)
}

/// The root folder belongs to one daemon at a time. (The original waits for
/// the lock of its database, without a word.)
async fn second_daemon_says_so(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("any", "sleep 1000").await?;
    let mut second = bed.daemon.command(&bed.sandbox)?;
    second.arg("--address").arg(bed.sandbox.path("second.sock"));
    second.arg("--state").arg(bed.sandbox.path("second-state"));
    second.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = within("the end of the second daemon", second.output()).await??;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let root = bed.daemon.root().display().to_string();
    ensure!(said.contains(&root), "{said:?} does not name {root}");
    assert_eq!(task.state().await?.status(), Status::Running);
    bed.destroy(&task).await
}

/// A file of version 3, with keys of plugins that we do not have.
async fn configuration_of_version_3(bed: &mut Bed) -> Result<()> {
    configure(bed, |file| {
        file.replace("version = 2", "version = 3")
            + "[plugins.'io.containerd.cri.v1.images']\n\
               snapshotter = 'overlayfs'\n\
               [plugins.'io.containerd.cri.v1.runtime'.containerd]\n\
               default_runtime_name = 'runc'\n\
               [timeouts]\n\
               'io.containerd.timeout.shim.load' = '4s'\n"
    })
    .await?;
    let task = bed.start_container("any", "sleep 1000").await?;
    bed.destroy(&task).await?;
    ensure!(
        bed.daemon.log().contains("io.containerd.cri.v1"),
        "the log does not mention what is ignored"
    );
    Ok(())
}

/// A file that makes no sense: the daemon names the file and the place.
async fn unreadable_configuration_is_named(bed: &mut Bed) -> Result<()> {
    for (text, word) in [
        ("version = 2\nroot = [\n", "2"),
        ("version = 99\n", "99"),
        ("version = 2\n[grpc]\naddress = 7\n", "address"),
    ] {
        let path = bed.sandbox.path("broken.toml");
        fs::write(&path, text)?;
        let output = Command::new(program(Origin::Ours, "containerd"))
            .arg("--config")
            .arg(&path)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(said.contains("broken.toml") && said.contains(word), "{text:?}: {said:?}");
    }
    Ok(())
}

/// SIGUSR1 writes what the daemon knows to its log.
async fn sigusr1_dumps_the_tasks(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("conspicuous", "sleep 1000").await?;
    proc::signal(bed.daemon.pid().context("daemon")?, Signal::SIGUSR1);
    let pid = task.pid.to_string();
    eventually(async || {
        let log = bed.daemon.log();
        let named = log.lines().any(|line| line.contains("conspicuous") && line.contains(&pid));
        ensure!(named, "no dump in the log");
        Ok(())
    })
    .await?;
    bed.destroy(&task).await
}

/// After a crash the socket's file is still there.
async fn stale_socket_is_no_obstacle(bed: &mut Bed) -> Result<()> {
    bed.daemon.kill().await?;
    ensure!(bed.daemon.socket().exists(), "the socket is gone");
    bed.daemon.start(&bed.sandbox).await
}

/// The words and flags that need no daemon.
#[test]
fn command_line() {
    run_plain(&[Origin::Ours], async || {
        let daemon = program(Origin::Ours, "containerd");
        let run = |words: &[&str]| -> Result<String> {
            let output = Command::new(&daemon).args(words).output()?;
            ensure!(output.status.success(), "{words:?}: {output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        ensure!(run(&["--version"])?.starts_with("containerd "));
        let help = run(&["--help"])?;
        for flag in ["--config", "--log-level", "--address", "--root", "--state", "--version"] {
            ensure!(help.contains(flag), "no {flag} in {help}");
        }
        let default = run(&["config", "default"])?;
        ensure!(default.contains("/var/lib/containerd"), "{default}");
        // What it prints is a file that it reads.
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config.toml");
        fs::write(&path, &default)?;
        let path = path.to_str().context("path")?;
        let dump = run(&["--config", path, "config", "dump"])?;
        ensure!(dump == default, "dump differs from default:\n{dump}\n{default}");

        let shim = program(Origin::Ours, "containerd-shim-runc-v2");
        let output = Command::new(shim).arg("-v").output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    });
}

/// Debian's daemon, as the suite starts it, is of the generation that the
/// remarks in these tests are about.
#[test]
fn the_original_is_1_6() {
    run_plain(&[Origin::Debian], async || {
        let daemon = program(Pairing::ORIGINAL.daemon, "containerd");
        let output = Command::new(daemon).arg("--version").output()?;
        let version = String::from_utf8(output.stdout)?;
        ensure!(version.contains(" 1.6."), "{version}");
        Ok(())
    });
}
