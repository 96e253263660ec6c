//! Each line of the README of 2015.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    Bed, eventually,
    legacy::{COUNT, counted, text},
    proc,
};

use crate::curl::{Rest, pid_of};

/// The README's line that makes a checkpoint.
const CHECKPOINT: &str = r#"curl -s -XPOST localhost:8888/containers/redis/checkpoint/test1 -d '{
        "exit": false,
        "tcp": false,
        "unixSockets": false,
        "shell": false
    }'"#;

/// Each line of the README, in its order.
pub(crate) async fn readme_of_2015(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    // Something that minds as little as redis does.
    let bundle = bed.bundle("redis", "exec sleep 1000")?;
    let run = async |line: &str| rest.printed(line, &bundle).await;
    let mut events = rest.events().await?;

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

    let answer = run(CHECKPOINT).await?;
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
pub(crate) async fn checkpoints_are_made_and_gone_on_from(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable_with(bed, "binary_name = \"runc\"\n").await?;
    let first = rest.start(bed, "redis", COUNT).await?;
    let bundle = bed.sandbox.path("bundles/redis");
    let goes_on = async |from: u64| {
        eventually(async || {
            let now = counted(&bundle)?;
            ensure!(now > from, "{now} after {from}");
            Ok(now)
        })
        .await
    };
    let run = async |line: &str| rest.printed(line, &bundle).await;
    let before = goes_on(0).await?;
    assert_eq!(run(CHECKPOINT).await?.code, 201);
    // It goes on.
    ensure!(proc::is_alive(first), "it has ended");
    assert_eq!(rest.container("redis").await?["state"], json!({ "status": "running" }));
    goes_on(before).await?;
    assert_eq!(run(CHECKPOINT).await?.code, 409, "there is one");

    let last = CHECKPOINT.replace("test1", "test2").replace("\"exit\": false", "\"exit\": true");
    assert_eq!(run(&last).await?.code, 201);
    rest.gone("redis").await?;
    let reached = counted(&bundle)?;
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
pub(crate) async fn a_checkpoint_that_fails_leaves_nothing(bed: &mut Bed) -> Result<()> {
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
