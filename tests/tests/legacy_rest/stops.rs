//! A daemon that is stopped in the midst of something.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    Bed,
    criu::Gate,
    eventually,
    legacy::{COUNT, counted, text},
    within,
};

use crate::curl::Rest;

/// The shim needs no daemon to go on. What it writes is not removed under it, and
/// is the only copy of the container then.
pub(crate) async fn a_daemon_may_stop_while_a_checkpoint_is_made(bed: &mut Bed) -> Result<()> {
    let gate = Gate::before_criu(bed)?;
    let rest = Rest::enable_with(bed, "binary_name = \"runc\"\n").await?;
    rest.start(bed, "one", COUNT).await?;
    let bundle = bed.sandbox.path("bundles/one");
    let (hidden, whole) = (bundle.join("checkpoints/.a.new"), bundle.join("checkpoints/a"));
    let exit = json!({ "exit": true });
    let asked = tokio::spawn({
        let (address, exit) = (rest.address.clone(), exit.clone());
        async move {
            let rest = Rest { address };
            rest.send("POST", "/containers/one/checkpoint/a", Some(&exit)).await
        }
    });
    gate.reached().await?;
    bed.daemon.stop().await?;
    if let Ok(answer) = within("an answer", asked).await?? {
        ensure!(answer.code != 201, "{answer:?}");
    }
    ensure!(hidden.exists(), "it was removed under the shim");
    bed.daemon.start(&bed.sandbox).await?;

    let rest = Rest::find(bed)?;
    let list = rest.send("GET", "/containers/one/checkpoint", None).await?;
    assert_eq!(list.json()?, json!([]));
    let again = rest.send("POST", "/containers/one/checkpoint/a", Some(&exit)).await?;
    ensure!(again.code == 503 && again.text.contains("still being made"), "{again:?}");
    let _open = gate.open()?;
    rest.gone("one").await?;
    let reached = counted(&bundle)?;

    ensure!(hidden.join("inventory.img").exists(), "the only copy is gone");
    fs::rename(&hidden, &whole)?;
    let body = json!({ "bundlePath": text(&bundle)?, "checkpoint": "a" });
    let answer = rest.send("POST", "/containers/one", Some(&body)).await?;
    assert_eq!(answer.code, 201, "{answer:?}");
    eventually(async || {
        let now = counted(&bundle)?;
        ensure!(now > reached, "{now} after {reached}");
        Ok(())
    })
    .await?;
    rest.end("one").await
}
