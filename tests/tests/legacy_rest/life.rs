//! Where it is served, what comes out of it, and what outlives the daemon.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use containerd_api::{events::TaskExit, services::events::v1::PublishRequest, to_any};
use futures::StreamExt;
use nix::sys::signal::Signal;
use serde_json::json;
use tests::{
    Bed,
    legacy::{LegacyEvents, text},
    proc, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{curl::Rest, refusals::GROWTH};

/// Containers of both APIs of 2015 are there afterwards, through both.
pub(crate) async fn daemon_dies_while_containers_run(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let lives = rest.start(bed, "lives", "sleep 1000").await?;
    let dies = rest.start(bed, "dies", "sleep 1000").await?;
    let grpc = containerd_api::legacy::CreateContainerRequest {
        id: "grpc".into(),
        bundle_path: text(&bed.bundle("grpc", "sleep 1000")?)?,
        ..Default::default()
    };
    let grpc = bed.legacy().create_container(grpc).await?.into_inner().pid;
    let body = json!({ "args": ["sleep", "1000"], "env": ["PATH=/bin"] });
    let added = rest.send("PUT", "/containers/lives/process", Some(&body)).await?.json()?;
    bed.daemon.kill().await?;
    proc::signal(dies, Signal::SIGKILL);
    proc::reaped(dies).await?;
    bed.daemon.start(&bed.sandbox).await?;

    let rest = Rest::find(bed)?;
    let container = rest.container("lives").await?;
    assert_eq!(container["state"], json!({ "status": "running" }));
    assert_eq!(container["processes"][0]["pid"], lives);
    assert_eq!(container["processes"][1], added);
    assert_eq!(rest.container("grpc").await?["processes"][0]["pid"], grpc);
    let ended = rest.container("dies").await?;
    assert_eq!(ended["state"], json!({ "status": "stopped", "exitStatus": 137 }));
    assert_eq!(ended["processes"][0]["pid"], dies);
    let mut events = rest.events().await?;
    assert_eq!(events.next().await?, json!({ "type": "exit", "id": "dies", "status": 137 }));
    let mut others = LegacyEvents::subscribe(bed).await?;
    assert_eq!(others.wait("exit", "dies", dies).await?.status, 137);

    // It makes room for its successor.
    rest.start(bed, "dies", "sleep 1000").await?;
    for id in ["lives", "dies", "grpc"] {
        rest.end(id).await?;
    }
    Ok(())
}

/// Files for the output are made where they are not there.
pub(crate) async fn output_goes_to_files(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let (out, err) = (bed.sandbox.path("out file"), bed.sandbox.path("err"));
    fs::write(&err, "before\n")?;
    let body = json!({
        "bundlePath": text(&bed.bundle("a", "echo good; echo bad >&2")?)?,
        "stdout": text(&out)?,
        "stderr": text(&err)?,
    });
    let mut events = LegacyEvents::subscribe(bed).await?;
    let answer = rest.send("POST", "/containers/a", Some(&body)).await?;
    assert_eq!(answer.code, 201, "{answer:?}");
    events.wait("exit", "a", 0).await?;
    rest.gone("a").await?;
    assert_eq!(fs::read_to_string(out)?, "good\n");
    assert_eq!(fs::read_to_string(err)?, "before\nbad\n");
    Ok(())
}

/// A socket only root can use, which goes with the daemon.
pub(crate) async fn unix_socket(bed: &mut Bed) -> Result<()> {
    let path = bed.sandbox.path("rest.sock");
    let rest = format!(
        "[plugins.\"io.containerd.legacy.v1.rest\"]\naddress = \"unix://{}\"\n",
        text(&path)?
    );
    bed.enable_legacy(&rest).await?;
    let line = format!("curl --unix-socket {} http://box/state", path.display());
    let rest = Rest::find(bed)?;
    assert_eq!(rest.address, format!("unix://{}", path.display()));
    let answer = rest.shell(&line).await?;
    assert_eq!((answer.code, &answer.json()?["containers"]), (200, &json!([])));
    // A stream that goes on does not keep the daemon from ending.
    let mut stream = UnixStream::connect(&path).await?;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: box\r\n\r\n").await?;
    let mut head = [0; 12];
    within("the head", stream.read_exact(&mut head)).await??;
    let ended = bed.daemon.stop().await?;
    ensure!(ended.success(), "{ended}");
    ensure!(!path.exists(), "the socket is left");
    bed.daemon.start(&bed.sandbox).await
}

/// Nothing listens unless the configuration says where.
pub(crate) async fn off_unless_asked_for(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    ensure!(Rest::find(bed).is_err(), "it is served");
    let pid = bed.daemon.pid().context("no daemon")?;
    for table in ["tcp", "tcp6"] {
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        for link in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let target = fs::read_link(link.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")).map(str::to_owned);
            let Some(inode) = inode else { continue };
            let inode = inode.trim_end_matches(']');
            ensure!(
                !sockets.lines().any(|line| line.split_whitespace().nth(9) == Some(inode)),
                "it has a TCP socket"
            );
        }
    }
    // Other hosts are not let in by accident.
    let config = fs::read_to_string(bed.daemon.config())?;
    let rest = "[plugins.\"io.containerd.legacy.v1.rest\"]\naddress = \"0.0.0.0:8888\"\n";
    for (more, good) in [("", false), ("allow_remote = true\n", true)] {
        fs::write(bed.daemon.config(), format!("{config}{rest}{more}"))?;
        let mut command = bed.daemon.command(&bed.sandbox)?;
        command.args(["config", "dump"]).stdout(Stdio::null());
        let ran = within("config dump", command.status()).await??;
        assert_eq!(ran.success(), good, "{more}");
    }
    Ok(())
}

/// Who does not read delays nobody and costs nothing.
pub(crate) async fn slow_subscriber(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(&rest.address).await?;
        stream.write_all(request).await?;
        slow.push(stream);
    }
    let mut fast = rest.events().await?;
    rest.start(bed, "first", "exit 1").await.ok();
    assert_eq!(fast.next().await?["id"], "first");
    let pid = bed.daemon.pid().context("no daemon")?;
    let before = proc::memory(pid)?.resident;
    // Ends that nobody has seen the beginning of are announced as well.
    let publish = |number: u32| {
        let id = format!("{number:06}-{}", "x".repeat(60));
        let exit = TaskExit {
            container_id: id.clone(),
            id,
            pid: 1_000_000 + number,
            exit_status: 7,
            exited_at: Some(std::time::SystemTime::now().into()),
        };
        let request = PublishRequest { topic: "/tasks/exit".into(), event: Some(to_any(&exit)) };
        let mut events = bed.api().events();
        async move { events.publish(request).await }
    };
    // Fewer at a time than are kept for who lags a little.
    for batch in 0..40 {
        let numbers = (batch * 500)..((batch + 1) * 500);
        let mut published =
            futures::stream::iter(numbers.clone()).map(publish).buffer_unordered(64);
        while let Some(answer) = published.next().await {
            answer?;
        }
        for _ in numbers {
            fast.next().await?;
        }
    }
    let grown = proc::memory(pid)?.resident.saturating_sub(before);
    ensure!(grown < GROWTH, "the daemon grew by {grown} KiB");
    // The slow ones may still read.
    let mut text = vec![0; 4096];
    let read = within("the first events", slow[0].read(&mut text)).await??;
    ensure!(text[..read].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&text));
    Ok(())
}
