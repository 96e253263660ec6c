//! What is checkpointed: a container that counts, and listens.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Bed, Ctr, Origin, Pairing,
    criu::{CRIU, CRUN, Roots},
    eventually,
    images::{Layout, busybox},
    registry::Registry,
};

/// Counts: the numbers are in a file that stays open, and nowhere else but in
/// the shell's memory. A child listens on a port and keeps what it hears; that its
/// input never ends keeps it from closing the connection first.
pub const COUNTER: &str = "sleep 100000 | nc -l -p 7777 > /heard & exec 3>>/log; n=0; \
                       while :; do n=$((n+1)); echo $n >&3; sleep 0.02; done";

/// Runs `test` with a daemon that finds CRIU, if it can be had.
///
/// # Panics
/// The test failed, or something is left.
pub fn run(name: &str, pairing: Pairing, test: impl AsyncFnOnce(&mut Bed) -> Result<()>) {
    let roots = match Roots::prepare() {
        Ok(roots) => roots,
        Err(reason) => return crate::skip(name, reason),
    };
    if pairing == Pairing::OURS_WITH_CRUN
        && let Some(reason) = crate::obstacle_to_crun()
    {
        return crate::skip(name, &reason);
    }
    crate::run(pairing, async |bed| {
        roots.install(&CRIU, &bed.sandbox, "criu")?;
        if pairing == Pairing::OURS_WITH_CRUN {
            roots.install(&CRUN, &bed.sandbox, "runc")?;
        }
        test(bed).await
    });
}

/// On machines with both versions of cgroups CRIU cannot restore what it finds of
/// the second one, when crun asks it to. runc knows what to leave out.
pub fn cgroups_mode(bed: &Bed) -> &'static str {
    if bed.daemon.pairing() == Pairing::OURS_WITH_CRUN { "ignore" } else { "" }
}

/// The words that save a container.
pub fn save<'a>(bed: &Bed, id: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut words = vec!["containers", "checkpoint", "--rw", "--image", "--task"];
    if !cgroups_mode(bed).is_empty() {
        words.extend(["--cgroups-mode", cgroups_mode(bed)]);
    }
    words.extend([id, name]);
    words
}

/// An image in a registry, which is pulled.
///
/// # Errors
/// It cannot be.
pub async fn pulled(bed: &Bed, registry: &Registry) -> Result<String> {
    let reference = registry.image("counter:1");
    let folder = tempfile::tempdir_in(bed.sandbox.folder())?;
    let (layout, _) = Layout::of(folder.path().join("layout"), "1", &busybox()?)?;
    layout.push(&bed.sandbox, "1", &reference).await?;
    bed.ctr(Origin::Ours).pull(&reference).await?;
    Ok(reference)
}

/// A container that counts.
pub struct Counter<'a> {
    /// Our `ctr`.
    pub ctr: Ctr<'a>,
    /// The container.
    pub id: String,
}

impl<'a> Counter<'a> {
    /// Starts one, and waits until it counts.
    ///
    /// # Errors
    /// It does not.
    pub async fn start(bed: &'a Bed, image: &str, id: &str) -> Result<Self> {
        let ctr = bed.ctr(Origin::Ours);
        let words = ["run", "-d", "--null-io", "--runc-binary", "runc", image, id];
        ctr.ok(&[&words[..], &["/bin/sh", "-c", COUNTER]].concat()).await?;
        let counter = Self { ctr, id: id.into() };
        counter.goes_on(0).await?;
        Ok(counter)
    }

    /// One that is there already.
    pub fn of(bed: &'a Bed, id: &str) -> Self {
        Self { ctr: bed.ctr(Origin::Ours), id: id.into() }
    }

    /// Runs a script in it; answers what it says.
    ///
    /// # Errors
    /// It fails.
    pub async fn exec(&self, script: &str) -> Result<String> {
        let words = ["tasks", "exec", "--exec-id", "look", &self.id, "/bin/sh", "-c", script];
        self.ctr.ok(&words).await
    }

    /// How far it has come. It has left no number out, and none is there twice.
    ///
    /// # Errors
    /// It has.
    pub async fn count(&self) -> Result<u32> {
        let log = self.exec("cat /log").await?;
        let mut numbers = 0;
        // The last one may be half written.
        for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            numbers += 1;
            ensure!(line.trim() == numbers.to_string(), "{line:?} in line {numbers}");
        }
        Ok(numbers)
    }

    /// Waits until it has counted further than that.
    ///
    /// # Errors
    /// It does not.
    pub async fn goes_on(&self, from: u32) -> Result<u32> {
        eventually(async || {
            let count = self.count().await?;
            ensure!(count > from, "it stays at {count}");
            Ok(count)
        })
        .await
    }

    /// The child takes a connection, and what comes by it.
    ///
    /// # Errors
    /// It does not.
    pub async fn listens(&self) -> Result<()> {
        // runc leaves networks to others, and brings even the loopback back as it
        // is made (runc, `checkpoint.go`). Who makes networks would do this.
        let pid = self.pid().await?;
        let status = tokio::process::Command::new("nsenter")
            .args(["--net", "--target", &pid, "ip", "link", "set", "lo", "up"])
            .status()
            .await?;
        ensure!(status.success(), "no loopback");
        self.exec("echo hello | nc 127.0.0.1 7777").await?;
        eventually(async || {
            let heard = self.exec("cat /heard").await?;
            ensure!(heard == "hello\n", "it has heard {heard:?}");
            Ok(())
        })
        .await
    }

    /// Pid and status.
    async fn state(&self) -> Result<(String, String)> {
        let tasks = self.ctr.ok(&["tasks", "ls"]).await?;
        for line in tasks.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            if words.next().as_ref() == Some(&self.id) {
                return words.next().zip(words.next()).context("a line without a status");
            }
        }
        bail!("no task {} in {tasks}", self.id)
    }

    async fn pid(&self) -> Result<String> {
        Ok(self.state().await?.0)
    }

    /// Checks its task's status.
    ///
    /// # Errors
    /// It is another.
    pub async fn is(&self, status: &str) -> Result<()> {
        let (_, found) = self.state().await?;
        ensure!(found == status, "{} is {found}", self.id);
        Ok(())
    }

    /// Ends and deletes its task.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn end_task(&self) -> Result<()> {
        self.ctr.ok(&["tasks", "rm", "--force", &self.id]).await.map(drop)
    }

    /// Ends it, and removes all of it.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn remove(&self) -> Result<()> {
        self.end_task().await?;
        self.ctr.ok(&["containers", "rm", &self.id]).await.map(drop)
    }
}

/// Names of what is in a folder.
///
/// # Errors
/// It cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Makes one `#[test]` of each function for one [`Pairing`] whose daemon finds CRIU,
/// where that can be had.
#[macro_export]
macro_rules! with_criu {
    ($name:ident, $pairing:expr, $($test:ident),+ $(,)?) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    let name = concat!(stringify!($name), "::", stringify!($test));
                    $crate::counter::run(name, $pairing, super::$test);
                }
            )+
        }
    };
}
