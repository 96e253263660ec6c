//! Fifty containers of both shims, and a daemon that is killed twenty times in
//! the middle of work.
//!
//! Workers start, exec and kill all the time. At a random moment the daemon is
//! killed; some containers end while it is away. When it is back, each
//! container must be what it really is, and in the end each exit must have been
//! announced exactly once to the one subscriber that was there all along, and
//! nothing may be left.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::services::containers::v1::ListContainersRequest;
use nix::sys::signal::Signal;
use tests::{
    Api, Bed, Container, Events, Origin, Process, Random, Spec, Status, Stdio, Topic, eventually,
    order, proc,
};
use tokio::task::JoinSet;
use tonic::Code;

tests::pairing!(ours, tests::Pairing::OURS, storm);

const RESIDENTS: u32 = 50;
const WORKERS: u32 = 5;
const KILLS: u32 = 20;
/// How many containers end while the daemon is away, each time.
const VICTIMS: usize = 4;
/// The daemon is killed within this time of load.
const MOMENT_MS: u64 = 600;

/// A container that lives until somebody ends it, with a status of its own.
struct Resident {
    task: Process,
    status: u32,
}

/// What the workers share.
struct Load {
    api: Api,
    /// What every container is made from.
    base: Spec,
    cgroup: String,
    /// The shims, which take turns.
    runtimes: [String; 2],
    /// Set just before the daemon is killed: from then on calls may fail.
    killed: AtomicBool,
    count: AtomicU32,
}

async fn storm(bed: &mut Bed) -> Result<()> {
    let mut random = Random::new();
    let events = bed.events().await?;
    let load = Arc::new(load(bed));
    let mut residents = BTreeMap::new();
    while residents.len() < RESIDENTS as usize {
        let (id, resident) = load.settle().await?;
        residents.insert(id, resident);
    }

    for kill in 0..KILLS {
        load.killed.store(false, Ordering::SeqCst);
        let mut workers = JoinSet::new();
        for mut share in share_out(std::mem::take(&mut residents)) {
            let (load, random) = (load.clone(), random.fork());
            workers.spawn(async move { load.work(random, &mut share).await.map(|()| share) });
        }
        tokio::time::sleep(Duration::from_millis(random.below(MOMENT_MS))).await;
        load.killed.store(true, Ordering::SeqCst);
        bed.daemon.kill().await?;
        for share in workers.join_all().await {
            residents.extend(share.with_context(|| format!("before kill {kill}"))?);
        }

        let away = end_some(&mut residents, &mut random).await?;
        bed.daemon.start(&bed.sandbox).await?;
        let checked = async {
            check_alive(&residents).await?;
            check_ended(away, &events, &load).await?;
            clear_unfinished(bed, &residents).await
        };
        checked.await.with_context(|| format!("after kill {kill}"))?;
        while residents.len() < RESIDENTS as usize {
            let (id, resident) = load.settle().await?;
            residents.insert(id, resident);
        }
    }

    for resident in residents.values() {
        bed.destroy(&resident.task).await?;
        events.delete_of(&resident.task.container).await?;
    }
    check_events(&events).await
}

fn load(bed: &Bed) -> Load {
    Load {
        api: bed.api().clone(),
        base: bed.spec("base", ""),
        cgroup: bed.sandbox.cgroup().to_owned(),
        runtimes: [bed.runtime_of(Origin::Ours), bed.runtime_of(Origin::Debian)],
        killed: AtomicBool::new(false),
        count: AtomicU32::new(0),
    }
}

/// Deals the residents to the workers, so that no two work on the same.
fn share_out(residents: BTreeMap<String, Resident>) -> Vec<BTreeMap<String, Resident>> {
    let mut shares: Vec<_> = (0..WORKERS).map(|_| BTreeMap::new()).collect();
    for (number, (id, resident)) in residents.into_iter().enumerate() {
        shares[number % WORKERS as usize].insert(id, resident);
    }
    shares
}

impl Load {
    fn spec(&self, id: &str, number: u32, script: &str) -> Spec {
        let runtime = &self.runtimes[number as usize % self.runtimes.len()];
        self.base
            .clone()
            .args(&["/bin/sh", "-c", script])
            .set("/linux/cgroupsPath", format!("{}/{id}", self.cgroup).into())
            .runtime(runtime)
    }

    /// Creates and starts a container that stays.
    async fn settle(&self) -> Result<(String, Resident)> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let status = 10 + number % 100;
        let id = format!("resident-{number}");
        let script =
            format!("trap 'exit {status}' TERM; while true; do sleep 1000 & wait $!; done");
        let spec = self.spec(&id, number, &script);
        let container = Container::create(&self.api, &id, &spec, BTreeMap::new()).await?;
        let mut task = container.task(false, Vec::new(), Stdio::null()).await?;
        task.start().await?;
        Ok((id, Resident { task, status }))
    }

    /// Works until the daemon is gone. What may have been changed halfway is no
    /// longer in `share` then.
    async fn work(&self, mut random: Random, share: &mut BTreeMap<String, Resident>) -> Result<()> {
        loop {
            let ids: Vec<_> = share.keys().cloned().collect();
            let done = match (random.below(3), random.pick(&ids)) {
                (0, Some(id)) => {
                    let resident = share.remove(id).context("resident")?;
                    self.replace(resident, share).await
                }
                (1, Some(id)) => self.exec(&share[id], &mut random).await,
                _ => self.run(&mut random).await,
            };
            if let Err(error) = done {
                if self.killed.load(Ordering::SeqCst) {
                    return Ok(());
                }
                return Err(error);
            }
        }
    }

    /// Ends a resident, and puts a new one in its place.
    async fn replace(&self, old: Resident, share: &mut BTreeMap<String, Resident>) -> Result<()> {
        old.task.kill(Signal::SIGKILL).await.context("kill resident")?;
        let exit = old.task.wait().await.context("wait for resident")?;
        ensure!(exit.status == 137, "{exit:?} after SIGKILL");
        ensure!(old.task.delete().await.context("delete resident")? == exit, "another exit");
        self.remove_record(&old.task.container).await?;
        let (id, new) = self.settle().await.context("new resident")?;
        share.insert(id, new);
        Ok(())
    }

    async fn exec(&self, resident: &Resident, random: &mut Random) -> Result<()> {
        let id = format!("exec-{}", self.count.fetch_add(1, Ordering::Relaxed));
        let status = u32::try_from(random.below(200))?;
        let script = format!("exit {status}");
        let mut exec =
            resident.task.exec(&id, &script, false, Stdio::null()).await.context("exec")?;
        exec.start().await.context("start exec")?;
        let exit = exec.wait().await.context("wait for exec")?;
        ensure!(exit.status == status, "{exit:?}, not {status}");
        exec.delete().await.context("delete exec")?;
        Ok(())
    }

    /// A container that ends by itself.
    async fn run(&self, random: &mut Random) -> Result<()> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("short-{number}");
        let status = u32::try_from(random.below(200))?;
        let spec = self.spec(&id, number, &format!("exit {status}"));
        let container = Container::create(&self.api, &id, &spec, BTreeMap::new()).await?;
        let mut task =
            container.task(false, Vec::new(), Stdio::null()).await.context("create short")?;
        task.start().await.context("start short")?;
        let exit = task.wait().await.context("wait for short")?;
        ensure!(exit.status == status, "{exit:?}, not {status}");
        ensure!(task.delete().await.context("delete short")? == exit, "another exit");
        self.remove_record(&id).await
    }

    async fn remove_record(&self, id: &str) -> Result<()> {
        let request =
            containerd_api::services::containers::v1::DeleteContainerRequest { id: id.into() };
        self.api.containers().delete(request).await.context("delete record")?;
        Ok(())
    }
}

/// What ended while the daemon was away, and when that was.
struct Away {
    ended: Vec<Resident>,
    from: SystemTime,
    to: SystemTime,
}

/// Ends some residents behind the daemon's back.
async fn end_some(residents: &mut BTreeMap<String, Resident>, random: &mut Random) -> Result<Away> {
    let from = SystemTime::now();
    let mut ended = Vec::new();
    for _ in 0..VICTIMS {
        let ids: Vec<_> = residents.keys().cloned().collect();
        let Some(id) = random.pick(&ids) else { break };
        let victim = residents.remove(id).context("victim")?;
        // The first process of a container gets no signal that it does not handle.
        eventually(async || {
            ensure!(proc::has_trap(victim.task.pid, Signal::SIGTERM), "{id} sets no trap");
            Ok(())
        })
        .await?;
        proc::signal(victim.task.pid, Signal::SIGTERM);
        ended.push(victim);
    }
    for victim in &ended {
        proc::reaped(victim.task.pid).await.with_context(|| victim.task.container.clone())?;
    }
    // The shim notes the time when it has reaped them.
    Ok(Away { ended, from, to: SystemTime::now() + Duration::from_secs(1) })
}

/// Nobody noticed anything.
async fn check_alive(residents: &BTreeMap<String, Resident>) -> Result<()> {
    for Resident { task, .. } in residents.values() {
        let state = task.state().await.with_context(|| task.container.clone())?;
        ensure!(proc::is_alive(task.pid), "{} is dead: {state:?}", task.container);
        ensure!(
            state.status() == Status::Running && state.pid == task.pid,
            "{} has pid {}: {state:?}",
            task.container,
            task.pid
        );
    }
    Ok(())
}

/// The status and the time are true, for who asks and for who listens.
async fn check_ended(away: Away, events: &Events, load: &Load) -> Result<()> {
    for Resident { task, status } in away.ended {
        let state = task.state().await.with_context(|| task.container.clone())?;
        ensure!(
            state.status() == Status::Stopped && state.exit_status == status,
            "{} ended with {status}: {state:?}",
            task.container
        );
        let at = SystemTime::try_from(state.exited_at.context("no time")?)?;
        ensure!((away.from..=away.to).contains(&at), "{at:?}, not {:?}", away.from..=away.to);
        let exit = events.exit_of(&task.container, &task.container).await?;
        ensure!(exit.status == Some(status) && exit.exited_at == state.exited_at, "{exit:?}");
        let deleted = task.delete().await?;
        ensure!(deleted.status == status && deleted.at == state.exited_at, "{deleted:?}");
        load.remove_record(&task.container).await?;
    }
    Ok(())
}

/// What the workers were busy with when the daemon was killed may be in any
/// state, but it must be one from which it can be removed.
async fn clear_unfinished(bed: &Bed, residents: &BTreeMap<String, Resident>) -> Result<()> {
    let list = bed.api().containers().list(ListContainersRequest::default()).await?.into_inner();
    for record in list.containers {
        if residents.contains_key(&record.id) {
            continue;
        }
        let task = bed.process(&record.id, "");
        match task.state().await {
            Ok(state) => {
                if state.status() != Status::Stopped {
                    match task.kill(Signal::SIGKILL).await {
                        Err(status) if status.code() != Code::NotFound => bail!(status),
                        _ => task.wait().await.map(drop)?,
                    }
                }
                task.delete().await.with_context(|| format!("delete unfinished {state:?}"))?;
            }
            Err(status) => ensure!(status.code() == Code::NotFound, "{}: {status}", record.id),
        }
        bed.remove_record(&record.id).await?;
    }
    Ok(())
}

async fn check_events(events: &Events) -> Result<()> {
    let is_start = |topic| matches!(topic, Topic::Start | Topic::ExecStarted);
    // Execs of removed containers may be the last to be heard of.
    for event in events.all().iter().filter(|event| is_start(event.topic)) {
        events.exit_of(&event.container, &event.process).await?;
    }
    events.sync().await?;
    let all = events.all();
    let started = all.iter().filter(|event| is_start(event.topic));
    order::exactly_one_exit(
        &all,
        started.map(|event| (event.container.as_str(), event.process.as_str())),
    )?;
    order::check(&all)
}
