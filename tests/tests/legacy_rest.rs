//! The REST API of 2015, used as its README showed: with curl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::{
    events::TaskExit, legacy::StateRequest, services::events::v1::PublishRequest, to_any,
};
use futures::StreamExt;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Bed, DEADLINE, eventually,
    legacy::{LegacyEvents, text},
    proc, skip, within,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, UnixStream},
    process::{Child, ChildStdout, Command},
};

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    readme_of_2015,
    daemon_dies_while_containers_run,
    output_goes_to_files,
    nonsense_is_refused,
    big_requests_are_refused,
    browsers_are_refused,
    slow_subscriber,
    unix_socket,
    off_unless_asked_for,
    description_is_true,
);

tests::with_criu!(
    runc,
    tests::Pairing::OURS_WITH_RUNC,
    checkpoints_are_made_and_gone_on_from,
    a_checkpoint_that_fails_leaves_nothing,
);

/// Memory that requests may cost the daemon for good, in KiB.
const GROWTH: u64 = 32 << 10;

/// The daemon's address for curl.
struct Rest {
    address: String,
}

/// What curl has got.
#[derive(Debug)]
struct Answer {
    code: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{self:?}"))
    }
}

impl Rest {
    /// Has the daemon serve on some port of this host.
    async fn enable(bed: &mut Bed) -> Result<Self> {
        Self::enable_with(bed, "").await
    }

    /// The same, with more of the section of its containers.
    async fn enable_with(bed: &mut Bed, more: &str) -> Result<Self> {
        let rest = "[plugins.\"io.containerd.legacy.v1.rest\"]\naddress = \"127.0.0.1:0\"\n";
        bed.enable_legacy(&format!("{more}{rest}")).await?;
        Self::find(bed)
    }

    /// Where the daemon serves now.
    fn find(bed: &Bed) -> Result<Self> {
        let log = bed.daemon.log();
        let line = log.lines().rfind(|line| line.contains("serving REST")).context("not served")?;
        let address = line.rsplit("address=").next().context("address")?;
        Ok(Self { address: address.trim_matches('"').to_owned() })
    }

    /// Runs a line as it is printed, but for the host and port, and the path of
    /// the bundle.
    async fn printed(&self, line: &str, bundle: &Path) -> Result<Answer> {
        let line = line
            .replace("localhost:8888", &self.address)
            .replace("\"/containers/redis\"", &format!("{:?}", text(bundle)?));
        self.shell(&line).await
    }

    async fn shell(&self, line: &str) -> Result<Answer> {
        // The code comes last.
        let script =
            format!("curl() {{ command curl -sS -w '\\n%{{http_code}}' \"$@\"; }}\n{line}");
        let ran = Command::new("bash").arg("-c").arg(script).kill_on_drop(true).output();
        let ran = within(line, ran).await??;
        let all = String::from_utf8(ran.stdout)?;
        let complaint = String::from_utf8_lossy(&ran.stderr).into_owned();
        let (text, code) = all.rsplit_once('\n').with_context(|| complaint.clone())?;
        Ok(Answer { code: code.parse().context(complaint)?, text: text.to_owned() })
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let data = body.map(|body| format!(" -d '{body}'")).unwrap_or_default();
        self.shell(&format!("curl -X{method} '{}{path}'{data}", self.address)).await
    }

    async fn start(&self, bed: &Bed, id: &str, script: &str) -> Result<u32> {
        let bundle = text(&bed.bundle(id, script)?)?;
        let body = json!({ "bundlePath": bundle });
        let answer = self.send("POST", &format!("/containers/{id}"), Some(&body)).await?;
        ensure!(answer.code == 201 && answer.text.is_empty(), "{answer:?}");
        pid_of(&self.container(id).await?["processes"][0])
    }

    async fn state(&self) -> Result<Value> {
        let answer = self.send("GET", "/state", None).await?;
        ensure!(answer.code == 200, "{answer:?}");
        answer.json()
    }

    async fn container(&self, id: &str) -> Result<Value> {
        let state = self.state().await?;
        let mut all = state["containers"].as_array().context("containers")?.iter();
        all.find(|c| c["id"] == id).cloned().with_context(|| format!("no {id} in {state}"))
    }

    async fn end(&self, id: &str) -> Result<()> {
        let body = json!({ "signal": 9 });
        let answer = self.send("PATCH", &format!("/containers/{id}"), Some(&body)).await?;
        ensure!(answer.code == 200, "{answer:?}");
        self.gone(id).await
    }

    async fn gone(&self, id: &str) -> Result<()> {
        eventually(async || {
            let found = self.container(id).await;
            ensure!(found.is_err(), "{id} is still there: {found:?}");
            Ok(())
        })
        .await
    }

    fn events(&self) -> Result<Subscriber> {
        let mut curl = Command::new("curl")
            .args(["-sN", &format!("{}/events", self.address)])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(curl.stdout.take().context("output")?).lines();
        Ok(Subscriber { _curl: curl, lines })
    }
}

/// A curl that reads `/events`.
struct Subscriber {
    _curl: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    async fn next(&mut self) -> Result<Value> {
        let line = within("an event", self.lines.next_line()).await??.context("the events end")?;
        Ok(serde_json::from_str(&line)?)
    }
}

fn pid_of(process: &Value) -> Result<u32> {
    let pid = process["pid"].as_u64().with_context(|| format!("no pid in {process}"))?;
    Ok(u32::try_from(pid)?)
}

/// Each line of the README, in its order.
async fn readme_of_2015(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    // Something that minds as little as redis does.
    let bundle = bed.bundle("redis", "exec sleep 1000")?;
    let run = async |line: &str| rest.printed(line, &bundle).await;
    let mut events = rest.events()?;

    // Printed without a quotation mark, so it was no JSON even then.
    let start = r#"curl -XPOST localhost:8888/containers/redis -d '{
    "bundlePath": "/containers/redis",
    "checkpoint: "checkpoint-name"
    }'"#;
    let answer = run(start).await?;
    assert_eq!(answer.code, 400, "{answer:?}");
    ensure!(answer.text.ends_with('\n') && !answer.text.starts_with('{'), "{answer:?}");
    // With it, it names a checkpoint, of which there is none yet.
    let answer = run(&start.replace("\"checkpoint:", "\"checkpoint\":")).await?;
    assert_eq!(answer.code, 404, "{answer:?}");
    let answer = run(&start.replace(",\n    \"checkpoint: \"checkpoint-name\"", "")).await?;
    assert_eq!((answer.code, answer.text.as_str()), (201, ""));

    let add = r#"curl -s -XPUT localhost:8888/containers/redis/process -d '{
       "user" : {
          "gid" : 0,
          "uid" : 0
       },
       "args" : [
          "sh",
          "-c",
          "sleep 10"
       ],
       "env" : [
          "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
          "TERM=xterm"
       ]
    }'"#;
    let mut added = Vec::new();
    for line in [add.to_owned(), add.replace("/process ", "/processes ")] {
        let answer = run(&line).await?;
        assert_eq!(answer.code, 200, "{answer:?}");
        let process = answer.json()?;
        let pid = pid_of(&process)?;
        let wanted = json!({
            "pid": pid,
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh", "-c", "sleep 10"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
        });
        assert_eq!(process, wanted);
        ensure!(proc::is_alive(pid), "{pid} does not run");
        added.push(process);
    }

    let signal =
        r#"curl -s -XPOST  localhost:8888/containers/redis/process/1234 -d '{"signal": 15}'"#;
    // No process of the container has that pid.
    let answer = run(signal).await?;
    assert_eq!(answer.code, 404, "{answer:?}");
    let first = pid_of(&added[0])?;
    let answer = run(&signal.replace("1234", &first.to_string())).await?;
    assert_eq!((answer.code, answer.text.as_str()), (200, ""));

    let pid = eventually(async || {
        let answer = run("curl -s localhost:8888/state").await?;
        assert_eq!(answer.code, 200, "{answer:?}");
        let state = answer.json()?;
        let processes = &state["containers"][0]["processes"];
        ensure!(processes.as_array().is_some_and(|all| all.len() == 2), "{state}");
        let wanted = json!({
            "containers": [{
                "id": "redis",
                "bundlePath": text(&bundle)?,
                "state": { "status": "running" },
                "processes": [
                    {
                        "pid": pid_of(&processes[0])?,
                        "args": ["/bin/sh", "-c", "exec sleep 1000"],
                        "env": ["PATH=/bin", "TERM=xterm"],
                        "cwd": "/",
                        "terminal": false,
                        "user": { "uid": 0, "gid": 0 },
                    },
                    &added[1],
                ],
            }],
            "machine": {
                "id": "box",
                "cpus": state["machine"]["cpus"].as_u64().context("cpus")?,
                "memory": state["machine"]["memory"].as_u64().context("memory")?,
            },
        });
        assert_eq!(state, wanted);
        pid_of(&processes[0])
    })
    .await?;

    let checkpoint = r#"curl -s -XPOST localhost:8888/containers/redis/checkpoint/test1 -d '{
        "exit": false,
        "tcp": false,
        "unixSockets": false,
        "shell": false
    }'"#;
    let answer = run(checkpoint).await?;
    assert_eq!(answer.code, 501, "{answer:?}");
    ensure!(proc::is_alive(pid), "it did not go on");
    for name in ["test2", "test1"] {
        let folder = bundle.join("checkpoints").join(name);
        fs::create_dir_all(&folder)?;
        let created = "2015-12-04T15:09:14.915868934-08:00";
        fs::write(folder.join("config.json"), json!({ "created": created }).to_string())?;
    }

    let list = "curl -s localhost:8888/containers/redis/checkpoint";
    let answer = run(list).await?;
    assert_eq!(answer.code, 200, "{answer:?}");
    let listed = |name: &str| {
        json!({
            "name": name,
            "unixSockets": false,
            "tcp": false,
            "shell": false,
            "timestamp": "2015-12-04T23:09:14.915868934Z",
        })
    };
    assert_eq!(answer.json()?, json!([listed("test1"), listed("test2")]));
    let delete = "curl -XDELETE -s localhost:8888/containers/redis/checkpoint/test1";
    assert_eq!(run(delete).await?.code, 200);
    assert_eq!(run(delete).await?.code, 404);
    assert_eq!(run(list).await?.json()?, json!([listed("test2")]));

    for status in ["paused", "running"] {
        let line = format!(
            r#"curl -XPATCH localhost:8888/containers/redis -d '{{"status": "{status}"}}'"#
        );
        assert_eq!(run(&line).await?.code, 200, "{status}");
        assert_eq!(rest.container("redis").await?["state"], json!({ "status": status }));
    }
    let kill = r#"curl -s -XPATCH localhost:8888/containers/redis -d '{"signal": 9}'"#;
    assert_eq!(run(kill).await?.code, 200);
    // Of processes that were added nothing is told.
    assert_eq!(events.next().await?, json!({ "type": "exit", "id": "redis", "status": 137 }));
    rest.gone("redis").await?;
    assert_eq!(run(kill).await?.code, 404);
    let empty = run("curl -s localhost:8888/state").await?.json()?;
    assert_eq!(empty["containers"], json!([]));
    Ok(())
}

/// The lines of the README on checkpoints, where the OCI runtime makes some.
async fn checkpoints_are_made_and_gone_on_from(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable_with(bed, "binary_name = \"runc\"\n").await?;
    let count = "n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.02; done";
    let first = rest.start(bed, "redis", count).await?;
    let bundle = bed.sandbox.path("bundles/redis");
    let number =
        || -> Result<u64> { Ok(fs::read_to_string(bundle.join("rootfs/count"))?.trim().parse()?) };
    let goes_on = async |from: u64| {
        eventually(async || {
            let now = number()?;
            ensure!(now > from, "{now} after {from}");
            Ok(now)
        })
        .await
    };
    let run = async |line: &str| rest.printed(line, &bundle).await;
    let checkpoint = r#"curl -s -XPOST localhost:8888/containers/redis/checkpoint/test1 -d '{
        "exit": false,
        "tcp": false,
        "unixSockets": false,
        "shell": false
    }'"#;
    let before = goes_on(0).await?;
    assert_eq!(run(checkpoint).await?.code, 201);
    // It goes on.
    ensure!(proc::is_alive(first), "it has ended");
    assert_eq!(rest.container("redis").await?["state"], json!({ "status": "running" }));
    goes_on(before).await?;
    assert_eq!(run(checkpoint).await?.code, 409, "there is one");

    let last = checkpoint.replace("test1", "test2").replace("\"exit\": false", "\"exit\": true");
    assert_eq!(run(&last).await?.code, 201);
    rest.gone("redis").await?;
    let reached = number()?;
    // With the container went what could list them; the bundle has them.
    for name in ["test1", "test2"] {
        ensure!(bundle.join("checkpoints").join(name).join("inventory.img").exists(), "{name}");
    }
    let start = r#"curl -XPOST localhost:8888/containers/redis -d '{
    "bundlePath": "/containers/redis",
    "checkpoint": "test2"
    }'"#;
    assert_eq!(run(start).await?.code, 201);
    ensure!(goes_on(reached).await? >= reached, "it began again");
    let listed = run("curl -s localhost:8888/containers/redis/checkpoint").await?.json()?;
    let names: Vec<_> = listed.as_array().context("list")?.iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["test1", "test2"]);
    let delete = "curl -XDELETE -s localhost:8888/containers/redis/checkpoint/test1";
    assert_eq!(run(delete).await?.code, 200);
    ensure!(!bundle.join("checkpoints/test1").exists(), "left behind");
    rest.end("redis").await
}

/// Where the OCI runtime makes none, the answer says what to do about it.
async fn a_checkpoint_that_fails_leaves_nothing(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let pid = rest.start(bed, "one", "sleep 1000").await?;
    let answer = rest.send("POST", "/containers/one/checkpoint/a", Some(&json!({}))).await?;
    assert_eq!(answer.code, 501, "{answer:?}");
    ensure!(answer.text.contains("binary_name"), "{answer:?}");
    ensure!(proc::is_alive(pid), "it did not go on");
    let folder = bed.sandbox.path("bundles/one/checkpoints/a");
    ensure!(!folder.exists(), "left behind");
    // Nor does it start from one that is there.
    rest.end("one").await?;
    fs::create_dir_all(&folder)?;
    let body = json!({ "bundlePath": text(&bed.sandbox.path("bundles/one"))?, "checkpoint": "a" });
    let answer = rest.send("POST", "/containers/one", Some(&body)).await?;
    assert_eq!(answer.code, 501, "{answer:?}");
    assert_eq!(rest.state().await?["containers"], json!([]));
    Ok(())
}

/// Containers of both APIs of 2015 are there afterwards, through both.
async fn daemon_dies_while_containers_run(bed: &mut Bed) -> Result<()> {
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
    eventually(async || {
        ensure!(!proc::is_alive(dies), "it still runs");
        Ok(())
    })
    .await?;
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
    let mut events = rest.events()?;
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
async fn output_goes_to_files(bed: &mut Bed) -> Result<()> {
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

/// The right code for each, in plain text, and nothing left behind.
async fn nonsense_is_refused(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let one = rest.start(bed, "one", "sleep 1000").await?;
    let other = rest.start(bed, "other", "sleep 1000").await?;
    let bundle = text(&bed.bundle("a", "true")?)?;
    let good = json!({ "bundlePath": bundle });
    let long = "x".repeat(77);
    for (id, code) in [("a%2Fb", 400), ("..", 404), ("%2E%2E", 400), ("a%20b", 400), ("-a", 400)] {
        let path = format!("/containers/{id}");
        let line = format!("curl --path-as-is -XPOST '{}{path}' -d '{good}'", rest.address);
        let answer = rest.shell(&line).await?;
        ensure!(answer.code == code || answer.code == 400, "{id}: {answer:?}");
        plain(&answer)?;
    }
    let requests: Vec<(&str, String, &str, u16)> = vec![
        ("POST", format!("/containers/{long}"), r#"{"bundlePath":"/x"}"#, 400),
        ("POST", "/containers/a/b".into(), r#"{"bundlePath":"/x"}"#, 404),
        ("POST", "/containers/".into(), r#"{"bundlePath":"/x"}"#, 404),
        ("POST", "/containers/a".into(), "", 400),
        ("POST", "/containers/a".into(), "{", 400),
        ("POST", "/containers/a".into(), "[]", 400),
        ("POST", "/containers/a".into(), "{}", 400),
        ("POST", "/containers/a".into(), r#"{"bundlePath":""}"#, 400),
        ("POST", "/containers/a".into(), r#"{"bundlePath":5}"#, 400),
        ("POST", "/containers/a".into(), r#"{"bundlePath":"relative"}"#, 400),
        ("POST", "/containers/a".into(), r#"{"bundlePath":"/nowhere/at/all"}"#, 404),
        ("POST", "/containers/one".into(), r#"{"bundlePath":"BUNDLE"}"#, 409),
        ("POST", "/containers/a".into(), r#"{"bundlePath":"BUNDLE","stdout":"binary:///x"}"#, 400),
        ("POST", format!("/containers/one/process/{other}"), r#"{"signal":9}"#, 404),
        ("POST", "/containers/one/process/1".into(), r#"{"signal":9}"#, 404),
        ("POST", "/containers/one/process/0".into(), r#"{"signal":9}"#, 404),
        ("POST", "/containers/one/process/99999999999".into(), r#"{"signal":9}"#, 404),
        ("POST", "/containers/one/process/x".into(), r#"{"signal":9}"#, 400),
        ("POST", "/containers/one/process/-1".into(), r#"{"signal":9}"#, 400),
        ("POST", format!("/containers/one/process/{one}"), r#"{"signal":0}"#, 400),
        ("POST", format!("/containers/one/process/{one}"), r#"{"signal":65}"#, 400),
        ("POST", format!("/containers/one/process/{one}"), r#"{"signal":-9}"#, 400),
        ("POST", format!("/containers/one/process/{one}"), r#"{"signal":9.5}"#, 400),
        ("POST", format!("/containers/one/process/{one}"), r#"{"signal":"9"}"#, 400),
        (
            "POST",
            format!("/containers/one/process/{one}"),
            r#"{"signal":18446744073709551616}"#,
            400,
        ),
        ("POST", format!("/containers/ghost/process/{one}"), r#"{"signal":9}"#, 404),
        ("PUT", "/containers/one/process".into(), r#"{"args":[]}"#, 400),
        ("PUT", "/containers/one/process".into(), r#"{"args":"sh"}"#, 400),
        ("PUT", "/containers/one/process".into(), r#"{"args":["a"],"user":{"uid":-1}}"#, 400),
        (
            "PUT",
            "/containers/one/process".into(),
            r#"{"args":["a"],"user":{"uid":4294967296}}"#,
            400,
        ),
        ("PUT", "/containers/ghost/process".into(), r#"{"args":["true"]}"#, 404),
        ("PATCH", "/containers/one".into(), r#"{"status":"stopped"}"#, 400),
        ("PATCH", "/containers/one".into(), r#"{"status":7}"#, 400),
        ("PATCH", "/containers/one".into(), r#"{"signal":1000}"#, 400),
        ("PATCH", "/containers/ghost".into(), r#"{"status":"paused"}"#, 404),
        ("POST", "/containers/one/checkpoint/x%2Fy".into(), "{}", 400),
        ("POST", "/containers/one/checkpoint/x".into(), r#"{"tcp":1}"#, 400),
        ("POST", "/containers/ghost/checkpoint/x".into(), "{}", 404),
        ("DELETE", "/containers/one/checkpoint/x".into(), "", 404),
        ("DELETE", "/containers/one/checkpoint/%2E%2E".into(), "", 400),
        ("GET", "/containers/ghost/checkpoint".into(), "", 404),
        ("GET", "/containers/one".into(), "", 405),
        ("DELETE", "/state".into(), "", 405),
        ("GET", "/nothing".into(), "", 404),
        ("GET", "/%ff".into(), "", 404),
        ("POST", "/containers/%ff".into(), r#"{"bundlePath":"/x"}"#, 400),
    ];
    for (method, path, body, code) in requests {
        let body = body.replace("BUNDLE", &bundle);
        let line = format!("curl -X{method} '{}{path}' -d '{body}'", rest.address);
        let answer = rest.shell(&line).await?;
        assert_eq!(answer.code, code, "{method} {path} {body}: {answer:?}");
        plain(&answer)?;
    }
    let state = rest.state().await?;
    let ids: Vec<_> = state["containers"].as_array().context("containers")?.iter().collect();
    ensure!(
        ids.len() == 2
            && ids.iter().all(|c| c["processes"].as_array().is_some_and(|p| p.len() == 1)),
        "{state}"
    );
    ensure!(proc::is_alive(one) && proc::is_alive(other), "a signal went astray");
    rest.end("one").await?;
    rest.end("other").await
}

/// An error is a line of text.
fn plain(answer: &Answer) -> Result<()> {
    let is_line = answer.text.lines().count() == 1 && answer.text.ends_with('\n');
    ensure!(is_line && !answer.text.starts_with(['{', '<']), "{answer:?}");
    Ok(())
}

/// A big request costs the daemon no memory, whatever it is about.
async fn big_requests_are_refused(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    rest.start(bed, "one", "sleep 1000").await?;
    let file = bed.sandbox.path("big");
    fs::write(&file, format!(r#"{{"args":["{}"]}}"#, "x".repeat(10 << 20)))?;
    let before = memory(bed)?;
    for _ in 0..4 {
        for (method, path) in [
            ("POST", "/containers/a"),
            ("PUT", "/containers/one/process"),
            ("PATCH", "/containers/one"),
            ("POST", "/containers/one/process/1"),
            ("POST", "/containers/one/checkpoint/a"),
        ] {
            for transfer in ["", "-H 'Transfer-Encoding: chunked'"] {
                let line = format!(
                    "curl {transfer} -X{method} {}{path} --data-binary @{}",
                    rest.address,
                    file.display()
                );
                let answer = rest.shell(&line).await?;
                assert_eq!(answer.code, 413, "{method} {path}: {answer:?}");
            }
        }
    }
    let grown = memory(bed)?.saturating_sub(before);
    ensure!(grown < GROWTH, "the daemon grew by {grown} KiB");
    // As big as may be is fine.
    let args = ["sleep", "1000"];
    let body = json!({ "args": args, "env": ["PATH=/bin", format!("X={}", "x".repeat(100_000))] });
    fs::write(&file, body.to_string())?;
    let line = format!(
        "curl -XPUT {}/containers/one/process --data-binary @{}",
        rest.address,
        file.display()
    );
    let answer = rest.shell(&line).await?;
    assert_eq!(answer.code, 200, "{}", &answer.text[..answer.text.len().min(200)]);
    rest.end("one").await
}

/// Resident memory of the daemon, in KiB.
fn memory(bed: &Bed) -> Result<u64> {
    let pid = bed.daemon.pid().context("no daemon")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Any page can have a browser send requests to this host.
async fn browsers_are_refused(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    for header in [
        "Origin: http://example.org",
        "Origin: null",
        "Sec-Fetch-Site: same-origin",
        "Host: example.org:8888",
    ] {
        for (method, path) in [("GET", "/state"), ("GET", "/events"), ("POST", "/containers/a")] {
            let line = format!("curl -X{method} -H '{header}' {}{path}", rest.address);
            let answer = rest.shell(&line).await?;
            assert_eq!(answer.code, 403, "{header}, {method} {path}: {answer:?}");
            plain(&answer)?;
        }
    }
    let port = rest.address.rsplit(':').next().context("port")?;
    let answer = rest.shell(&format!("curl http://localhost:{port}/state")).await?;
    assert_eq!(answer.code, 200, "{answer:?}");
    Ok(())
}

/// Who does not read delays nobody and costs nothing.
async fn slow_subscriber(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(&rest.address).await?;
        stream.write_all(request).await?;
        slow.push(stream);
    }
    let mut fast = rest.events()?;
    rest.start(bed, "first", "exit 1").await.ok();
    assert_eq!(fast.next().await?["id"], "first");
    let before = memory(bed)?;
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
    let grown = memory(bed)?.saturating_sub(before);
    ensure!(grown < GROWTH, "the daemon grew by {grown} KiB");
    // The slow ones may still read.
    let mut text = vec![0; 4096];
    let read = within("the first events", slow[0].read(&mut text)).await??;
    ensure!(text[..read].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&text));
    Ok(())
}

/// A socket only root can use, which goes with the daemon.
async fn unix_socket(bed: &mut Bed) -> Result<()> {
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
async fn off_unless_asked_for(bed: &mut Bed) -> Result<()> {
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

/// The description is checked against the daemon by a program that makes up
/// requests from it.
async fn description_is_true(bed: &mut Bed) -> Result<()> {
    let schemathesis = match install(bed).await {
        Ok(program) => program,
        Err(reason) => {
            skip("ours::description_is_true", &format!("no schemathesis: {reason:#}"));
            return Ok(());
        }
    };
    let rest = Rest::enable(bed).await?;
    rest.start(bed, "box", "sleep 1000").await?;
    // With a container, which it learns of from the state, and without. Programs
    // that are not there fail in the container's runtime, which is a 500, and
    // checkpoints are a 501.
    let not_with_one = ["createCheckpoint", "addProcess", "addProcesses"];
    let excluded: Vec<_> =
        not_with_one.iter().flat_map(|name| ["--exclude-operation-id", *name]).collect();
    check(bed, &schemathesis, &rest, &excluded).await?;
    // It knows the container from the state, and may have killed it.
    let state = bed.legacy().state(StateRequest {}).await?.into_inner();
    ensure!(state.containers.iter().all(|container| container.id == "box"), "{state:?}");
    if !state.containers.is_empty() {
        rest.end("box").await?;
    }
    check(bed, &schemathesis, &rest, &[]).await?;
    let state = bed.legacy().state(StateRequest {}).await?.into_inner();
    ensure!(state.containers.is_empty(), "{state:?}");
    Ok(())
}

async fn check(bed: &Bed, schemathesis: &Path, rest: &Rest, more: &[&str]) -> Result<()> {
    let ran = Command::new(schemathesis)
        .arg("run")
        .arg(format!("http://{}/openapi.json", rest.address))
        // It never ends, so there is nothing to be looked at.
        .args(["--exclude-path", "/events"])
        // No description knows which bundles and programs there are.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--max-examples", "50", "--workers", "1", "--request-timeout", "30"])
        .args(["--phases", "examples,coverage,fuzzing", "--no-color", "--seed", "2015"])
        .args(more)
        .current_dir(bed.sandbox.folder())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(5 * DEADLINE, ran).await.context("schemathesis hangs")??;
    let said = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// Into a folder of this test.
async fn install(bed: &Bed) -> Result<PathBuf> {
    let folder = bed.sandbox.path("venv");
    let venv = text(&folder)?;
    let pip = text(&folder.join("bin/pip"))?;
    for words in [
        vec!["python3", "-m", "venv", &venv],
        vec![&pip, "install", "--quiet", "--disable-pip-version-check", "schemathesis>=4,<5"],
    ] {
        let ran = Command::new(words[0]).args(&words[1..]).kill_on_drop(true).output();
        let ran = tokio::time::timeout(Duration::from_secs(240), ran).await;
        let ran = ran.with_context(|| format!("{words:?} hangs"))??;
        if !ran.status.success() {
            bail!("{words:?}: {}", String::from_utf8_lossy(&ran.stderr).trim());
        }
    }
    Ok(folder.join("bin/schemathesis"))
}
