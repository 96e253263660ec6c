//! Many at once, and the daemon dies meanwhile.

use anyhow::{Context, Result, ensure};
use containerd_api::{
    legacy::{CreateContainerRequest, StateRequest},
    services::containers::v1::{GetContainerRequest, UpdateContainerRequest},
};
use nix::sys::signal::Signal;
use prost_types::{Any, FieldMask};
use tests::{
    Bed, code, eventually, leaks,
    legacy::{LegacyEvents, text},
    proc, within,
};
use tonic::Code;

use crate::calls::{SIGKILL, SIGTERM, add, end, gone, signal, start};

/// Nothing of a container is only in the daemon's memory.
pub(crate) async fn daemon_dies_while_containers_run(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let lives = start(bed, "lives", "sleep 1000").await?;
    let dies = start(bed, "dies", "sleep 1000").await?;
    let vanishes = start(bed, "vanishes", "sleep 1000").await?;
    let kept = add(bed, "lives", "exec sleep 1001").await?;
    let ends = add(bed, "lives", "exec sleep 1002").await?;
    let lost = add(bed, "vanishes", "exec sleep 1003").await?;
    bed.daemon.kill().await?;
    for pid in [dies, ends] {
        proc::signal(pid, Signal::SIGKILL);
    }
    // With its shim nobody knows how it ended, but that it did.
    let shim = proc::shims_in(bed.namespace())
        .into_iter()
        .find(|shim| proc::arguments(*shim).iter().any(|argument| argument == "vanishes"));
    let shim = shim.context("shim")?;
    proc::signal(shim, Signal::SIGKILL);
    eventually(async || {
        let left: Vec<_> = [dies, ends].into_iter().filter(|pid| !proc::is_reaped(*pid)).collect();
        ensure!(left.is_empty() && !proc::is_alive(shim), "{left:?} or {shim} are there");
        Ok(())
    })
    .await?;
    bed.daemon.start(&bed.sandbox).await?;

    let mut events = LegacyEvents::subscribe(bed).await?;
    events.wait("exit", "vanishes", lost).await?;

    for _ in 0..2 {
        let container = bed.legacy_container("lives").await?;
        assert_eq!(container.status, "running");
        let processes: Vec<_> =
            container.processes.iter().map(|p| (p.pid, p.args.last().cloned())).collect();
        assert_eq!(processes[0].0, lives);
        assert_eq!(processes[1], (kept, Some("exec sleep 1001".into())));
        assert_eq!(processes.len(), 2);
        for (id, pid) in [("dies", dies), ("vanishes", vanishes)] {
            let container = bed.legacy_container(id).await?;
            assert_eq!(container.status, "stopped", "{id}");
            assert_eq!(container.bundle_path, text(&bed.sandbox.path("bundles").join(id))?);
            assert_eq!(container.processes[0].pid, pid, "{id}");
        }
        // Whoever subscribes hears of it, also from the next daemon.
        let mut events = LegacyEvents::subscribe(bed).await?;
        assert_eq!(events.wait("exit", "dies", dies).await?.status, 137);
        assert_eq!(events.wait("exit", "vanishes", vanishes).await?.status, 137);
        assert_eq!(events.wait("exit", "lives", ends).await?.status, 137);
        bed.crash().await?;
    }
    // It has ended, so nothing can be done with it.
    let (kind, message) = code(signal(bed, "dies", dies, SIGTERM).await)?;
    assert_eq!(kind, Code::NotFound, "{message}");

    // One makes room for its successor, the other is removed by hand.
    let mut events = LegacyEvents::subscribe(bed).await?;
    let again = start(bed, "dies", "exit 3").await?;
    assert_eq!(events.wait("exit", "dies", again).await?.status, 3);
    gone(bed, "dies").await?;
    bed.remove_record("vanishes").await?;
    signal(bed, "lives", kept, SIGTERM).await?;
    events.wait("exit", "lives", kept).await?;
    end(bed, "lives").await
}

/// A shim may be slow to start what a client was told has failed, so that this is
/// noted. Whether it runs, or when, makes no difference.
pub(crate) async fn what_failed_to_start_is_ended(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let failed = start(bed, "failed", "sleep 1000").await?;
    let kept = start(bed, "kept", "sleep 1000").await?;
    let added = add(bed, "kept", "exec sleep 1001").await?;
    for id in ["failed", "kept"] {
        let request = GetContainerRequest { id: id.into() };
        let found = bed.api().containers().get(request).await?.into_inner();
        let mut container = found.container.context("container")?;
        let (prefix, note) =
            ("io.containerd.legacy.v1.process.", "io.containerd.legacy.v1.unwanted");
        let exec = container.extensions.keys().find_map(|name| name.strip_prefix(prefix));
        let note = exec.map_or_else(|| note.to_owned(), |exec| format!("{note}.{exec}"));
        let value = Any { type_url: note.clone(), value: b"null".into() };
        container.extensions.insert(note, value);
        let mask = FieldMask { paths: vec!["extensions".into()] };
        let request =
            UpdateContainerRequest { container: Some(container), update_mask: Some(mask) };
        bed.api().containers().update(request).await?;
    }
    bed.crash().await?;
    gone(bed, "failed").await?;
    eventually(async || {
        let left: Vec<_> = [failed, added].into_iter().filter(|pid| proc::is_alive(*pid)).collect();
        ensure!(left.is_empty(), "{left:?} still run");
        let container = bed.legacy_container("kept").await?;
        let pids: Vec<_> = container.processes.iter().map(|process| process.pid).collect();
        ensure!(pids == [kept], "{pids:?}");
        Ok(())
    })
    .await?;
    end(bed, "kept").await
}

/// Of many who want the same name one gets it, and nobody gets in the way of
/// others.
pub(crate) async fn many_at_once(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    for id in ["same", "c0", "c1", "c2", "c3"] {
        bed.bundle(id, "sleep 1000")?;
    }
    let wanted = (0..4).flat_map(|n| ["same".to_owned(), format!("c{n}")]);
    let requests = wanted.map(|id| {
        let (mut api, bundle) = (bed.legacy(), bed.sandbox.path("bundles").join(&id));
        async move {
            let bundle_path = bundle.display().to_string();
            let request = CreateContainerRequest { id, bundle_path, ..Default::default() };
            api.create_container(request).await
        }
    });
    let answers = futures::future::join_all(requests).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    ensure!(refused.iter().all(|status| status.code() == Code::AlreadyExists), "{refused:?}");
    let state = bed.legacy().state(StateRequest {}).await?.into_inner();
    assert_eq!(state.containers.len(), 5);
    for id in ["same", "c0", "c1", "c2", "c3"] {
        signal(bed, id, 0, SIGKILL).await?;
        events.wait("exit", id, 0).await?;
        gone(bed, id).await?;
    }
    Ok(())
}

/// A daemon that dies in the midst of starts leaves containers that run, and
/// none that are half made.
pub(crate) async fn daemon_dies_while_containers_are_made(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let ids: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
    for id in &ids {
        bed.bundle(id, "sleep 1000")?;
    }
    for after in 1..=6 {
        let starts: Vec<_> = ids
            .iter()
            .map(|id| {
                let (mut api, bundle) = (bed.legacy(), bed.sandbox.path("bundles").join(id));
                let (id, bundle_path) = (id.clone(), bundle.display().to_string());
                tokio::spawn(async move {
                    let request = CreateContainerRequest { id, bundle_path, ..Default::default() };
                    api.create_container(request).await
                })
            })
            .collect();
        // Each time a little later, by what is seen of the starts.
        eventually(async || {
            let shims = proc::shims_in(bed.namespace()).len();
            ensure!(shims >= after, "{shims} shims");
            Ok(())
        })
        .await?;
        bed.daemon.kill().await?;
        let mut answered = Vec::new();
        for (id, start) in ids.iter().zip(starts) {
            if let Ok(answer) = within("an answer or none", start).await?? {
                answered.push((id.clone(), answer.into_inner().pid));
            }
        }
        bed.daemon.start(&bed.sandbox).await?;
        let state = bed.legacy().state(StateRequest {}).await?.into_inner();
        for (id, pid) in answered {
            let found = state.containers.iter().find(|container| container.id == id);
            let found = found.with_context(|| format!("{id} was answered and is gone"))?;
            assert_eq!((found.status.as_str(), found.processes[0].pid), ("running", pid));
        }
        for container in &state.containers {
            // Its end may be that of the daemon before, in the middle of an undo.
            match container.status.as_str() {
                "running" => end(bed, &container.id).await?,
                _ => {
                    start(bed, &container.id, "sleep 1000").await?;
                    end(bed, &container.id).await?;
                }
            }
        }
        leaks::check(&bed.sandbox, &bed.daemon).await?;
    }
    // All names are free.
    for id in &ids {
        start(bed, id, "sleep 1000").await?;
        end(bed, id).await?;
    }
    Ok(())
}
