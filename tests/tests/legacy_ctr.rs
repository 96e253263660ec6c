//! The words of 2015 of our `ctr`.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Bed, Origin, eventually, legacy::text, proc, within};
use tokio::io::{AsyncBufReadExt, BufReader};

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    containers_are_started_listed_and_killed,
    start_stays_with_the_container,
    start_with_a_terminal,
    exec_stays_with_the_process,
    checkpoints_are_listed_and_deleted,
    events_and_figures,
    help_tells_old_words_from_new,
);

/// Waits until nothing is listed any more.
async fn gone(bed: &Bed) -> Result<()> {
    eventually(async || {
        let listed = bed.ctr(Origin::Ours).ok(&["containers"]).await?;
        ensure!(listed.lines().count() == 1, "{listed}");
        Ok(())
    })
    .await
}

/// Without a word, the containers of 2015; the new words stay what they are.
async fn containers_are_started_listed_and_killed(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let ctr = bed.ctr(Origin::Ours);
    let header = "ID                  PATH                STATUS              PID1\n";
    assert_eq!(ctr.ok(&["containers"]).await?, header);
    let bundle = text(&bed.bundle("redis", "exec sleep 1000")?)?;
    let pid = ctr.ok(&["containers", "start", "redis", &bundle]).await?;
    let pid: u32 = pid.trim().parse()?;
    ensure!(proc::is_alive(pid), "{pid} does not run");
    let listed = ctr.ok(&["containers"]).await?;
    let words: Vec<_> = listed.lines().nth(1).context("no line")?.split_whitespace().collect();
    assert_eq!(words, ["redis", &bundle, "running", &pid.to_string()]);
    assert_eq!(ctr.ok(&["c", "ls", "-q"]).await?, "redis\n");

    // A folder is named as a shell names it.
    let again = ctr.run(&["containers", "start", "redis", &bundle]).await?;
    ensure!(again.code != Some(0) && again.stderr.contains("already exists"), "{again:?}");
    let missing = ctr.run(&["containers", "start", "other", "/nowhere"]).await?;
    ensure!(missing.stderr.contains("/nowhere"), "{missing:?}");

    ctr.ok(&["containers", "exec", "--id", "redis", "--env", "PATH=/bin", "sleep", "1000"]).await?;
    let added = bed.legacy_container("redis").await?.processes[1].pid;
    let other = ctr.run(&["containers", "kill", "--pid", "1", "redis"]).await?;
    ensure!(other.stderr.contains("not found"), "{other:?}");
    ctr.ok(&["containers", "kill", "--pid", &added.to_string(), "redis"]).await?;
    eventually(async || {
        ensure!(!proc::is_alive(added), "{added} still runs");
        Ok(())
    })
    .await?;
    ensure!(proc::is_alive(pid), "the wrong one was killed");
    ctr.ok(&["containers", "kill", "--signal", "9", "redis"]).await?;
    gone(bed).await
}

/// Output, errors and exit code are those of the container.
async fn start_stays_with_the_container(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let script = "read x; echo got $x; echo bad >&2; exit 7";
    let bundle = text(&bed.bundle("a", script)?)?;
    let ctr = bed.ctr(Origin::Ours);
    let words = ["containers", "start", "--attach", "a", &bundle];
    for _ in 0..3 {
        let ran = ctr.run_with_input(&words, "word\n").await?;
        assert_eq!(
            (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
            (Some(7), "got word\n", "bad\n")
        );
        gone(bed).await?;
    }
    let missing = ctr.run(&["containers", "start", "--attach", "a", "/nowhere"]).await?;
    ensure!(missing.code == Some(1) && missing.stderr.contains("/nowhere"), "{missing:?}");
    Ok(())
}

/// Keys and screen are passed through.
async fn start_with_a_terminal(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let spec = bed.spec("a", "tty; read x; echo got $x; exit 3").terminal();
    let bundle = text(&bed.bundle_of("a", &spec)?)?;
    let ctr = bed.ctr(Origin::Ours);
    let mut terminal = ctr.terminal(&["containers", "start", "--attach", "a", &bundle])?;
    terminal.until("/dev/pts/").await?;
    terminal.type_text("word\r")?;
    let screen = terminal.until("got word").await?;
    // The echo is the container's, and there is one.
    assert_eq!(screen.matches("word").count(), 2, "{screen:?}");
    assert_eq!(terminal.wait().await?.code(), Some(3));
    gone(bed).await?;
    // Without a terminal of our own there is nobody to have one.
    let ran = ctr.run(&["containers", "start", "--attach", "a", &bundle]).await?;
    ensure!(ran.code == Some(1) && ran.stderr.contains("terminal"), "{ran:?}");
    Ok(())
}

/// An exec with each of its options.
async fn exec_stays_with_the_process(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let bundle = text(&bed.bundle("a", "exec sleep 1000")?)?;
    let ctr = bed.ctr(Origin::Ours);
    ctr.ok(&["containers", "start", "a", &bundle]).await?;
    let script = "echo $X $(id -u) $(id -g) $(pwd); read x; echo got $x; exit 5";
    let words = [
        "containers",
        "exec",
        "--id",
        "a",
        "--attach",
        "--cwd",
        "/tmp",
        "--env",
        "X=y",
        "--env",
        "PATH=/bin",
        "--uid",
        "1000",
        "--gid",
        "1001",
        "sh",
        "-c",
        script,
    ];
    let ran = ctr.run_with_input(&words, "word\n").await?;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(5), "y 1000 1001 /tmp\ngot word\n"),
        "{ran:?}"
    );

    let words = [
        "containers",
        "exec",
        "--id",
        "a",
        "-a",
        "-t",
        "-e",
        "PATH=/bin",
        "sh",
        "-c",
        "test -t 0 && test -t 1 && echo a tty; exit 6",
    ];
    let mut terminal = ctr.terminal(&words)?;
    terminal.until("a tty").await?;
    assert_eq!(terminal.wait().await?.code(), Some(6));
    eventually(async || {
        let left = bed.legacy_container("a").await?.processes.len();
        ensure!(left == 1, "{left} processes");
        Ok(())
    })
    .await?;
    ctr.ok(&["containers", "kill", "-s", "KILL", "a"]).await?;
    gone(bed).await
}

/// Checkpoints, as far as they go.
async fn checkpoints_are_listed_and_deleted(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let bundle = bed.bundle("a", "exec sleep 1000")?;
    let ctr = bed.ctr(Origin::Ours);
    ctr.ok(&["containers", "start", "a", &text(&bundle)?]).await?;
    let folder = bundle.join("checkpoints/one");
    fs::create_dir_all(&folder)?;
    let config = json!({ "created": "2015-12-04T15:09:14-08:00", "tcp": true });
    fs::write(folder.join("config.json"), config.to_string())?;
    let wanted = "NAME                TCP                 UNIX SOCKETS        SHELL\n\
                  one                 true                false               false\n";
    assert_eq!(ctr.ok(&["checkpoints", "a"]).await?, wanted);
    assert_eq!(ctr.ok(&["checkpoints", "list", "a"]).await?, wanted);
    let words =
        ["checkpoints", "create", "--tcp", "--unix-sockets", "--exit", "--shell", "a", "two"];
    let made = ctr.run(&words).await?;
    ensure!(made.code == Some(1) && made.stderr.contains("checkpoint"), "{made:?}");
    ctr.ok(&["checkpoints", "delete", "a", "one"]).await?;
    let header = wanted.lines().next().context("header")?;
    assert_eq!(ctr.ok(&["checkpoints", "a"]).await?.trim_end(), header);
    let none = ctr.run(&["checkpoints"]).await?;
    ensure!(none.code == Some(1) && none.stderr.contains("container"), "{none:?}");
    ctr.ok(&["containers", "kill", "-s", "9", "a"]).await?;
    gone(bed).await
}

/// What comes for as long as one listens.
async fn events_and_figures(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let bundle = text(&bed.bundle("a", "exec sleep 1000")?)?;
    let ctr = bed.ctr(Origin::Ours);
    let mut listener = ctr.spawn(&["events", "--legacy"])?;
    let mut lines = BufReader::new(listener.stdout.take().context("output")?).lines();
    let mut next = async || -> Result<Vec<String>> {
        let line = within("an event", lines.next_line()).await??.context("the end")?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    };
    assert_eq!(next().await?, ["TYPE", "ID", "PID", "STATUS"]);
    let pid = ctr.ok(&["containers", "start", "a", &bundle]).await?.trim().to_owned();
    assert_eq!(next().await?, ["startContainer", "a", &pid, "0"]);

    let mut figures = ctr.spawn(&["containers", "stats", "a"])?;
    let mut stats = BufReader::new(figures.stdout.take().context("output")?).lines();
    let line = within("figures", stats.next_line()).await??.context("the end")?;
    let value: Value = serde_json::from_str(&line)?;
    ensure!(value["cgroup_stats"]["cpu_stats"]["cpu_usage"]["total_usage"].is_u64(), "{value}");
    ensure!(value["network_stats"][0]["name"].is_string(), "{value}");

    ctr.ok(&["containers", "kill", "-s", "9", "a"]).await?;
    assert_eq!(next().await?, ["exit", "a", &pid, "137"]);
    // The figures end with the container.
    while within("the end of figures", stats.next_line()).await??.is_some() {}
    ensure!(within("the end", figures.wait()).await??.success(), "figures end in an error");
    listener.start_kill()?;
    listener.wait().await?;
    gone(bed).await
}

/// Who asks for help learns which words are which.
async fn help_tells_old_words_from_new(bed: &mut Bed) -> Result<()> {
    for (words, old, new) in [
        (
            &["containers", "--help"][..],
            &["start", "kill", "exec", "stats"][..],
            &["create", "list"][..],
        ),
        (&["checkpoints", "--help"], &["list", "create", "delete"], &[]),
    ] {
        let help = bed.ctr(Origin::Ours).ok(words).await?;
        let is_old = |word: &str| {
            let line = help.lines().find(|line| line.trim_start().starts_with(&format!("{word} ")));
            line.with_context(|| format!("{word} is not in {help}")).map(|l| l.contains("(2015)"))
        };
        for word in old {
            ensure!(is_old(word)?, "{word} in {help}");
        }
        for word in new {
            ensure!(!is_old(word)?, "{word} in {help}");
        }
        ensure!(help.contains("containerd 0.0.4"), "{help}");
    }
    Ok(())
}
