//! What tests of the APIs of 2015 need: bundles on disk and clients.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::legacy::{Container, Event, StateRequest, api_client::ApiClient};
use tokio::{sync::watch, task::JoinHandle};
use tonic::transport::Channel;

use crate::{Bed, Spec, time::within};

impl Bed {
    /// Has the containers of 2015 in the namespace of this test, so that what is
    /// left of them is found, and restarts the daemon. `more` is added to its
    /// configuration.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn enable_legacy(&mut self, more: &str) -> Result<ApiClient<Channel>> {
        let mut config = fs::File::options().append(true).open(self.daemon.config())?;
        writeln!(
            config,
            "[plugins.\"io.containerd.legacy.v1.containers\"]\n\
             namespace = {:?}\n\
             runtime = {:?}\n\
             id = \"box\"\n\
             {more}",
            self.namespace(),
            self.runtime(),
        )?;
        drop(config);
        self.daemon.stop().await?;
        self.daemon.start(&self.sandbox).await?;
        Ok(self.legacy())
    }

    /// A client of `types.API`.
    pub fn legacy(&self) -> ApiClient<Channel> {
        ApiClient::new(self.api().channel())
    }

    /// A bundle that runs `script`.
    ///
    /// # Errors
    /// No disk space.
    pub fn bundle(&self, id: &str, script: &str) -> Result<PathBuf> {
        self.bundle_of(id, &self.spec(id, script))
    }

    /// A bundle with the configuration of `spec`, but for its root.
    ///
    /// # Errors
    /// No disk space.
    pub fn bundle_of(&self, id: &str, spec: &Spec) -> Result<PathBuf> {
        let folder = self.sandbox.path("bundles").join(id);
        fs::create_dir_all(&folder)?;
        let spec = spec.clone().set("/root/path", "rootfs".into());
        fs::write(folder.join("config.json"), spec.json.to_string())?;
        let rootfs = folder.join("rootfs");
        if !rootfs.exists() {
            let copied =
                Command::new("cp").arg("-a").arg(self.sandbox.rootfs()).arg(&rootfs).status()?;
            ensure!(copied.success(), "cannot copy the root");
        }
        Ok(folder)
    }

    /// A container, as the state has it.
    ///
    /// # Errors
    /// It is not there.
    pub async fn legacy_container(&self, id: &str) -> Result<Container> {
        let state = self.legacy().state(StateRequest {}).await?.into_inner();
        let found = state.containers.into_iter().find(|container| container.id == id);
        found.with_context(|| format!("no container {id} in the state"))
    }
}

/// A path as text.
///
/// # Errors
/// It is none.
pub fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}

/// A subscriber of `Events`, which collects what comes.
pub struct LegacyEvents {
    received: watch::Receiver<Vec<Event>>,
    reader: JoinHandle<()>,
}

impl LegacyEvents {
    /// Subscribes.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn subscribe(bed: &Bed) -> Result<Self> {
        let mut stream = bed
            .legacy()
            .events(containerd_api::legacy::EventsRequest {})
            .await
            .context("subscribe to events")?
            .into_inner();
        let (sender, received) = watch::channel(Vec::new());
        let reader = tokio::spawn(async move {
            while let Ok(Some(event)) = stream.message().await {
                sender.send_modify(|all| all.push(event));
            }
        });
        Ok(Self { received, reader })
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Event> {
        self.received.borrow().clone()
    }

    /// The first event of a type and a container, and with a pid if that is not
    /// 0, as soon as there is one.
    ///
    /// # Errors
    /// There is none.
    pub async fn wait(&mut self, kind: &str, id: &str, pid: u32) -> Result<Event> {
        let is_it = |e: &&Event| e.r#type == kind && e.id == id && (pid == 0 || e.pid == pid);
        let what = format!("event {kind} of {id}");
        let came = self.received.wait_for(|all| all.iter().any(|event| is_it(&event)));
        let came = within(&what, came).await.map(|came| came.map(drop));
        let all = self.all();
        if !matches!(came, Ok(Ok(()))) {
            bail!("{what} does not come: {all:?}");
        }
        all.into_iter().find(|event| is_it(&event)).context(what)
    }
}

impl Drop for LegacyEvents {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Counts in a file, which is never open between two numbers.
pub const COUNT: &str = "n=0; while :; do n=$((n+1)); echo $n >>/count; sleep 0.02; done";

/// How far [`COUNT`] has come in the container of a bundle.
///
/// # Errors
/// It has not begun.
pub fn counted(bundle: &Path) -> Result<u64> {
    let numbers = fs::read_to_string(bundle.join("rootfs/count"))?;
    Ok(numbers.lines().last().context("no number")?.parse()?)
}
