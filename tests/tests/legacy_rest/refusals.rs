//! What is refused, and costs nothing.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Bed, eventually, legacy::text, proc, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::curl::{Answer, Rest};

/// Memory that requests may cost the daemon for good, in KiB.
pub(crate) const GROWTH: u64 = 32 << 10;

/// Clients that listen at the same time.
const LISTENERS: usize = 64;

/// Who only listens keeps nobody from asking.
pub(crate) async fn listeners_leave_room_for_others(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    let listen = async || -> Result<(TcpStream, String)> {
        let mut stream = TcpStream::connect(&rest.address).await?;
        let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", rest.address);
        stream.write_all(request.as_bytes()).await?;
        let mut code = [0; "HTTP/1.1 200".len()];
        within("an answer", stream.read_exact(&mut code)).await??;
        Ok((stream, String::from_utf8_lossy(&code[9..]).into_owned()))
    };
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        let (stream, code) = listen().await?;
        assert_eq!(code, "200");
        listeners.push(stream);
    }
    let (_, code) = listen().await?;
    assert_eq!(code, "503");
    rest.state().await?;
    listeners.pop();
    eventually(async || {
        let (_, code) = listen().await?;
        ensure!(code == "200", "{code}");
        Ok(())
    })
    .await
}

/// The right code for each, in plain text, and nothing left behind.
pub(crate) async fn nonsense_is_refused(bed: &mut Bed) -> Result<()> {
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
pub(crate) fn plain(answer: &Answer) -> Result<()> {
    let is_line = answer.text.lines().count() == 1 && answer.text.ends_with('\n');
    ensure!(is_line && !answer.text.starts_with(['{', '<']), "{answer:?}");
    Ok(())
}

/// A big request costs the daemon no memory, whatever it is about.
pub(crate) async fn big_requests_are_refused(bed: &mut Bed) -> Result<()> {
    let rest = Rest::enable(bed).await?;
    rest.start(bed, "one", "sleep 1000").await?;
    let file = bed.sandbox.path("big");
    fs::write(&file, format!(r#"{{"args":["{}"]}}"#, "x".repeat(10 << 20)))?;
    let pid = bed.daemon.pid().context("no daemon")?;
    let before = proc::memory(pid)?.resident;
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
    let grown = proc::memory(pid)?.resident.saturating_sub(before);
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

/// Any page can have a browser send requests to this host.
pub(crate) async fn browsers_are_refused(bed: &mut Bed) -> Result<()> {
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
