//! Both command lines, Debian's `ctr` and ours, against each pairing.

use std::{fs, os::unix::process::ExitStatusExt};

use anyhow::{Context, Result, ensure};
use containerd_api::{events::ContainerDelete, services::events::v1::PublishRequest, to_any};
use nix::sys::signal::Signal;
use tests::{Bed, Ctr, Origin, eventually, proc, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

tests::every_pairing!(
    run_says_hello_and_passes_the_exit_code,
    run_reads_standard_input,
    run_on_a_terminal,
    run_forwards_signals,
    run_flags,
    detached_life,
    exec_on_a_terminal,
    attach_again,
    events_are_shown,
    metrics_are_shown,
    objects,
    errors_are_told,
);

/// Calls `test` with each `ctr` in turn.
async fn with_both(bed: &Bed, test: impl AsyncFn(&Ctr<'_>, &str) -> Result<()>) -> Result<()> {
    for (origin, prefix) in [(Origin::Debian, "d"), (Origin::Ours, "o")] {
        test(&bed.ctr(origin), prefix).await.with_context(|| format!("ctr: {origin:?}"))?;
    }
    Ok(())
}

/// Arguments of `ctr run` for the test's root filesystem and shim.
fn run<'a>(bed: &Bed, flags: &[&'a str], id: &'a str, command: &[&'a str]) -> Vec<String> {
    let mut words = vec!["run".to_owned(), "--runtime".to_owned(), bed.runtime()];
    words.extend(flags.iter().map(|word| (*word).to_owned()));
    words.extend([
        "--rootfs".to_owned(),
        bed.sandbox.rootfs().display().to_string(),
        id.to_owned(),
    ]);
    words.extend(command.iter().map(|word| (*word).to_owned()));
    words
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Runs a command whose process says something and then reads a line, or a second
/// one after `input`: its exit code. It lives until all is heard, as Debian's ctr may
/// lose what came just before the end.
async fn hear(ctr: &Ctr<'_>, words: &[&str], input: &str, said: [&str; 2]) -> Result<Option<i32>> {
    let mut child = ctr.spawn(words)?;
    let mut stdin = child.stdin.take().context("input")?;
    stdin.write_all(input.as_bytes()).await?;
    let (mut output, mut errors) =
        (child.stdout.take().context("output")?, child.stderr.take().context("errors")?);
    let mut heard = vec![0; said[0].len()];
    within("the output", output.read_exact(&mut heard)).await??;
    assert_eq!(String::from_utf8_lossy(&heard), said[0], "{words:?}");
    // Among what ctr itself has to say.
    let mut complaint = Vec::new();
    while !String::from_utf8_lossy(&complaint).contains(said[1]) {
        let read = within("the errors", errors.read_buf(&mut complaint)).await??;
        ensure!(read > 0, "{words:?}: {:?}", String::from_utf8_lossy(&complaint));
    }
    stdin.write_all(b"\n").await?;
    let status = within("the end of ctr", child.wait()).await??;
    heard.clear();
    within("the end of the output", output.read_to_end(&mut heard)).await??;
    assert_eq!(String::from_utf8_lossy(&heard), "", "{words:?}");
    Ok(status.code())
}

async fn run_says_hello_and_passes_the_exit_code(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let script = "echo hello; echo trouble >&2; read line; exit 7";
        let words = run(bed, &["--rm"], prefix, &["/bin/sh", "-c", script]);
        let code = hear(ctr, &refs(&words), "", ["hello\n", "trouble\n"]).await?;
        assert_eq!(code, Some(7));
        Ok(())
    })
    .await
}

async fn run_reads_standard_input(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let words = run(bed, &["--rm"], prefix, &["/bin/cat"]);
        let mut child = ctr.spawn(&refs(&words))?;
        let mut input = child.stdin.take().context("input")?;
        let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
        input.write_all(b"word\n").await?;
        let line = within("the echo", lines.next_line()).await??;
        ensure!(line.as_deref() == Some("word"), "{line:?}");
        // Not earlier: Debian's ctr loses an end that comes before the task.
        drop(input);
        let status = within("the end of ctr", child.wait()).await??;
        ensure!(status.code() == Some(0), "{status}");
        Ok(())
    })
    .await
}

async fn run_on_a_terminal(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let words = run(bed, &["--rm", "-t"], prefix, &["/bin/sh"]);
        let mut terminal = ctr.terminal(&refs(&words))?;
        terminal.until("# ").await?;
        terminal.type_text("until stty size | grep '^17 91'; do sleep 0.02; done\n")?;
        eventually(async || {
            // Again and again: Debian's ctr asks for the size before it
            // listens for changes, and loses one that comes in between.
            terminal.resize(90, 17)?;
            terminal.resize(91, 17)?;
            ensure!(terminal.screen().contains("\n17 91\r"), "{:?}", terminal.screen());
            Ok(())
        })
        .await?;
        terminal.type_text("exit 5\n")?;
        let status = terminal.wait().await?;
        ensure!(status.code() == Some(5), "{status}");
        Ok(())
    })
    .await
}

async fn run_forwards_signals(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.01; done";
        let words = run(bed, &["--rm"], prefix, &["/bin/sh", "-c", script]);
        let mut child = ctr.spawn(&refs(&words))?;
        let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
        let line = within("the first line", lines.next_line()).await??;
        ensure!(line.as_deref() == Some("ready"), "{line:?}");
        let pid = child.id().context("pid")?;
        // It forwards once it has started the task, and tells nobody. A Go
        // program catches SIGTSTP only when it has asked for all signals.
        eventually(async || {
            ensure!(
                [Signal::SIGTERM, Signal::SIGTSTP].iter().all(|s| proc::catches(pid, *s)),
                "ctr does not forward signals"
            );
            Ok(())
        })
        .await?;
        proc::signal(pid, Signal::SIGTERM);
        let status = within("the end of ctr", child.wait()).await??;
        ensure!(status.code() == Some(9), "{status}, signal {:?}", status.signal());
        Ok(())
    })
    .await
}

/// What the flags of `run` ask for is what the process finds.
async fn run_flags(bed: &mut Bed) -> Result<()> {
    let shared = bed.sandbox.path("shared");
    fs::create_dir(&shared)?;
    fs::write(shared.join("note"), "from outside\n")?;
    let mount = format!("type=bind,src={},dst=/tmp,options=rbind:ro", shared.display());
    with_both(bed, async |ctr, prefix| {
        let pid_file = bed.sandbox.path(&format!("{prefix}.pid"));
        let flags = [
            "--rm",
            "--env",
            "COLOUR=green",
            "--cwd",
            "/etc",
            "--mount",
            &mount,
            "--read-only",
            "--label",
            "a=b",
            "--memory-limit",
            "67108864",
            "--pid-file",
            pid_file.to_str().context("path")?,
        ];
        let script = "echo $COLOUR; pwd; cat /tmp/note; \
                      touch /etc/new 2>/dev/null || echo read-only; read line; true";
        let words = run(bed, &flags, prefix, &["/bin/sh", "-c", script]);
        let said = "green\n/etc\nfrom outside\nread-only\n";
        assert_eq!(hear(ctr, &refs(&words), "", [said, ""]).await?, Some(0));
        let pid: u32 = fs::read_to_string(&pid_file)?.trim().parse()?;
        ensure!(pid > 1, "pid {pid}");
        Ok(())
    })
    .await?;
    // Debian's ctr of this generation has no --user.
    let words = run(bed, &["--rm", "--user", "1000:1000"], "u", &["/bin/id", "-u"]);
    let output = bed.ctr(Origin::Ours).run(&refs(&words)).await?.ok()?;
    ensure!(output == "1000\n", "{output:?}");
    Ok(())
}

/// Everything that is done to a task in the background.
async fn detached_life(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let script = "sleep 1000 & sleep 1000 & wait";
        let words = run(bed, &["-d", "--label", "who=me"], prefix, &["/bin/sh", "-c", script]);
        ctr.run(&refs(&words)).await?.ok()?;
        let state = async || -> Result<(u32, String)> {
            let list = ctr.run(&["tasks", "ls"]).await?.ok()?;
            let line = list.lines().find(|line| line.starts_with(prefix)).context("task")?;
            let mut columns = line.split_whitespace().skip(1);
            let pid = columns.next().context("pid")?.parse()?;
            Ok((pid, columns.next().context("status")?.to_owned()))
        };
        let (pid, status) = state().await?;
        ensure!(proc::is_alive(pid) && status == "RUNNING", "{pid} {status}");
        let quiet = ctr.run(&["tasks", "ls", "-q"]).await?.ok()?;
        ensure!(quiet == format!("{prefix}\n"), "{quiet:?}");

        let script = "echo in; read line; exit 3";
        let exec = ["tasks", "exec", "--exec-id", "job", prefix, "/bin/sh", "-c", script];
        assert_eq!(hear(ctr, &exec, "", ["in\n", ""]).await?, Some(3));

        eventually(async || {
            let processes = ctr.run(&["tasks", "ps", prefix]).await?.ok()?;
            let pids: Vec<_> =
                processes.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
            ensure!(pids.len() == 3 && pids.contains(&pid.to_string().as_str()), "{processes}");
            Ok(())
        })
        .await?;

        ctr.run(&["tasks", "pause", prefix]).await?.ok()?;
        ensure!(state().await? == (pid, "PAUSED".into()));
        ctr.run(&["tasks", "resume", prefix]).await?.ok()?;
        ensure!(state().await? == (pid, "RUNNING".into()));

        ctr.run(&["tasks", "kill", "-s", "SIGKILL", prefix]).await?.ok()?;
        eventually(async || {
            let (pid, status) = state().await?;
            ensure!(status == "STOPPED", "{pid} {status}");
            Ok(())
        })
        .await?;
        // How it ended is told by a warning.
        let deleted = ctr.run(&["tasks", "delete", prefix]).await?;
        ensure!(deleted.code == Some(0) && deleted.stderr.contains("137"), "{deleted:?}");
        ctr.run(&["containers", "rm", prefix]).await?.ok()?;
        Ok(())
    })
    .await
}

async fn exec_on_a_terminal(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("host", "sleep 1000").await?;
    with_both(bed, async |ctr, prefix| {
        let words = ["tasks", "exec", "-t", "--exec-id", prefix, "host", "/bin/sh"];
        let mut terminal = ctr.terminal(&words)?;
        terminal.until("# ").await?;
        terminal.type_text("tty; exit 6\n")?;
        terminal.until("/dev/pts/").await?;
        let status = terminal.wait().await?;
        ensure!(status.code() == Some(6), "{status}");
        Ok(())
    })
    .await?;
    bed.destroy(&task).await
}

/// `attach` gets the output, and the exit code.
async fn attach_again(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let script = "read line; echo got $line; read line; exit 4";
        let words = run(bed, &["-d"], prefix, &["/bin/sh", "-c", script]);
        ctr.run(&refs(&words)).await?.ok()?;
        let attach = ["tasks", "attach", prefix];
        assert_eq!(hear(ctr, &attach, "word\n", ["got word\n", ""]).await?, Some(4));
        // Debian's ctr deletes the task when it has attached to its end.
        let _ = ctr.run(&["tasks", "delete", prefix]).await?;
        ctr.run(&["containers", "rm", prefix]).await?.ok()?;
        Ok(())
    })
    .await
}

async fn events_are_shown(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let mut child = ctr.spawn(&["events"])?;
        let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
        // Nobody says when a subscription has begun.
        loop {
            let event = Some(to_any(&ContainerDelete { id: "marker".into() }));
            let request = PublishRequest { topic: "/tests/marker".into(), event };
            bed.api().events().publish(request).await?;
            let patience = std::time::Duration::from_millis(50);
            if let Ok(line) = tokio::time::timeout(patience, lines.next_line()).await {
                ensure!(line?.context("a line")?.contains("/tests/marker"));
                break;
            }
        }
        let words = run(bed, &["--rm"], prefix, &["/bin/sh", "-c", "exit 8"]);
        ensure!(ctr.run(&refs(&words)).await?.code == Some(8));
        let mut topics = Vec::new();
        within("the delete event", async {
            while let Some(line) = lines.next_line().await? {
                let Some(topic) = line.split_whitespace().find(|word| word.starts_with("/tasks/"))
                else {
                    continue;
                };
                ensure!(line.contains(bed.namespace()), "no namespace in {line:?}");
                if topic == "/tasks/exit" {
                    ensure!(line.contains("\"exit_status\":8"), "{line:?}");
                }
                topics.push(topic.to_owned());
                if topic == "/tasks/delete" {
                    return Ok(());
                }
            }
            anyhow::bail!("ctr events ended")
        })
        .await??;
        ensure!(
            topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"],
            "{topics:?}"
        );
        Ok(())
    })
    .await
}

async fn metrics_are_shown(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("busy", "sleep 1000").await?;
    with_both(bed, async |ctr, _| {
        let table = ctr.run(&["tasks", "metrics", "busy"]).await?.ok()?;
        for word in ["busy", "memory", "cpu"] {
            ensure!(table.contains(word), "no {word} in {table}");
        }
        Ok(())
    })
    .await?;
    bed.destroy(&task).await
}

/// Containers, namespaces, leases, plugins, version.
async fn objects(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, prefix| {
        let mut words = run(bed, &["--label", "colour=green"], prefix, &["/bin/true"]);
        words.splice(..1, ["containers".into(), "create".into()]);
        ctr.run(&refs(&words)).await?.ok()?;
        let list = ctr.run(&["containers", "ls", "-q"]).await?.ok()?;
        ensure!(list == format!("{prefix}\n"), "{list:?}");
        let info: serde_json::Value =
            serde_json::from_str(&ctr.run(&["containers", "info", prefix]).await?.ok()?)?;
        ensure!(info["ID"] == prefix && info["Labels"]["colour"] == "green", "{info}");
        ensure!(info["Spec"]["process"]["args"][0] == "/bin/true", "{info}");
        ctr.run(&["containers", "label", prefix, "colour=red"]).await?.ok()?;
        let filtered = ctr.run(&["containers", "ls", "-q", "labels.colour==red"]).await?.ok()?;
        ensure!(filtered == format!("{prefix}\n"), "{filtered:?}");
        ctr.run(&["containers", "rm", prefix]).await?.ok()?;

        let namespace = format!("space-{prefix}");
        ctr.run(&["namespaces", "create", &namespace, "size=small"]).await?.ok()?;
        let list = ctr.run(&["namespaces", "ls"]).await?.ok()?;
        let line = list.lines().find(|line| line.starts_with(&namespace)).context("namespace")?;
        ensure!(line.contains("size=small"), "{line:?}");
        ctr.run(&["namespaces", "label", &namespace, "size=large"]).await?.ok()?;
        ensure!(ctr.run(&["namespaces", "ls"]).await?.ok()?.contains("size=large"));
        ctr.run(&["namespaces", "rm", &namespace]).await?.ok()?;

        let lease = ctr.run(&["leases", "create", "--id", prefix, "kind=test"]).await?.ok()?;
        ensure!(lease == format!("{prefix}\n"), "{lease:?}");
        let list = ctr.run(&["leases", "ls"]).await?.ok()?;
        ensure!(list.lines().any(|line| line.starts_with(prefix) && line.contains("kind=test")));
        ctr.run(&["leases", "rm", prefix]).await?.ok()?;
        ensure!(!ctr.run(&["leases", "ls"]).await?.ok()?.contains("kind=test"));

        let plugins = ctr.run(&["plugins", "ls"]).await?.ok()?;
        let runtime = plugins.lines().find(|line| line.contains("io.containerd.runtime.v2"));
        ensure!(runtime.is_some_and(|line| line.trim_end().ends_with("ok")), "{plugins}");
        let version = ctr.run(&["version"]).await?.ok()?;
        ensure!(version.contains("Client:") && version.contains("Server:"), "{version}");
        Ok(())
    })
    .await
}

/// A failure is on standard error, and the exit code is 1.
async fn errors_are_told(bed: &mut Bed) -> Result<()> {
    with_both(bed, async |ctr, _| {
        for words in [
            &["tasks", "kill", "ghost"][..],
            &["tasks", "exec", "--exec-id", "x", "ghost", "/bin/true"],
            &["containers", "info", "ghost"],
            &["tasks", "start", "ghost"],
        ] {
            let output = ctr.run(words).await?;
            ensure!(output.code == Some(1), "{words:?}: {output:?}");
            ensure!(output.stderr.contains("ghost"), "{words:?}: {output:?}");
        }
        Ok(())
    })
    .await
}
