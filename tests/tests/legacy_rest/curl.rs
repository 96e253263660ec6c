//! The daemon as curl sees it.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Bed, eventually, legacy::text, within};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

/// The daemon's address for curl.
pub(crate) struct Rest {
    pub(crate) address: String,
}

/// What curl has got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{self:?}"))
    }
}

impl Rest {
    /// Has the daemon serve on some port of this host.
    pub(crate) async fn enable(bed: &mut Bed) -> Result<Self> {
        Self::enable_with(bed, "").await
    }

    /// The same, with more of the section of its containers.
    pub(crate) async fn enable_with(bed: &mut Bed, more: &str) -> Result<Self> {
        let rest = "[plugins.\"io.containerd.legacy.v1.rest\"]\naddress = \"127.0.0.1:0\"\n";
        bed.enable_legacy(&format!("{more}{rest}")).await?;
        Self::find(bed)
    }

    /// Where the daemon serves now.
    pub(crate) fn find(bed: &Bed) -> Result<Self> {
        let log = bed.daemon.log();
        let line = log.lines().rfind(|line| line.contains("serving REST")).context("not served")?;
        let address = line.rsplit("address=").next().context("address")?;
        Ok(Self { address: address.trim_matches('"').to_owned() })
    }

    /// Runs a line as it is printed, but for the host and port, and the path of
    /// the bundle.
    pub(crate) async fn printed(&self, line: &str, bundle: &Path) -> Result<Answer> {
        let line = line
            .replace("localhost:8888", &self.address)
            .replace("\"/containers/redis\"", &format!("{:?}", text(bundle)?));
        self.shell(&line).await
    }

    pub(crate) async fn shell(&self, line: &str) -> Result<Answer> {
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

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let data = body.map(|body| format!(" -d '{body}'")).unwrap_or_default();
        self.shell(&format!("curl -X{method} '{}{path}'{data}", self.address)).await
    }

    pub(crate) async fn start(&self, bed: &Bed, id: &str, script: &str) -> Result<u32> {
        let bundle = text(&bed.bundle(id, script)?)?;
        let body = json!({ "bundlePath": bundle });
        let answer = self.send("POST", &format!("/containers/{id}"), Some(&body)).await?;
        ensure!(answer.code == 201 && answer.text.is_empty(), "{answer:?}");
        pid_of(&self.container(id).await?["processes"][0])
    }

    pub(crate) async fn state(&self) -> Result<Value> {
        let answer = self.send("GET", "/state", None).await?;
        ensure!(answer.code == 200, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn container(&self, id: &str) -> Result<Value> {
        let state = self.state().await?;
        let mut all = state["containers"].as_array().context("containers")?.iter();
        all.find(|c| c["id"] == id).cloned().with_context(|| format!("no {id} in {state}"))
    }

    pub(crate) async fn end(&self, id: &str) -> Result<()> {
        let body = json!({ "signal": 9 });
        let answer = self.send("PATCH", &format!("/containers/{id}"), Some(&body)).await?;
        ensure!(answer.code == 200, "{answer:?}");
        self.gone(id).await
    }

    pub(crate) async fn gone(&self, id: &str) -> Result<()> {
        eventually(async || {
            let found = self.container(id).await;
            ensure!(found.is_err(), "{id} is still there: {found:?}");
            Ok(())
        })
        .await
    }

    /// Hears of everything from now on.
    pub(crate) async fn events(&self) -> Result<Subscriber> {
        let mut curl = Command::new("curl")
            .args(["-sNv", &format!("{}/events", self.address)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(curl.stdout.take().context("output")?).lines();
        // The head comes when the subscription has begun.
        let mut said = BufReader::new(curl.stderr.take().context("errors")?).lines();
        let head = async {
            while said.next_line().await?.context("no answer")? != "< HTTP/1.1 200 OK" {}
            anyhow::Ok(())
        };
        within("the head", head).await??;
        Ok(Subscriber { _curl: curl, _said: said, lines })
    }
}

/// A curl that reads `/events`.
pub(crate) struct Subscriber {
    _curl: Child,
    _said: Lines<BufReader<ChildStderr>>,
    pub(crate) lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    pub(crate) async fn next(&mut self) -> Result<Value> {
        let line = within("an event", self.lines.next_line()).await??.context("the events end")?;
        Ok(serde_json::from_str(&line)?)
    }
}

pub(crate) fn pid_of(process: &Value) -> Result<u32> {
    let pid = process["pid"].as_u64().with_context(|| format!("no pid in {process}"))?;
    Ok(u32::try_from(pid)?)
}
