//! Many snapshots.

use super::*;

/// As many as images may have.
const DEEPEST: usize = 127;

pub async fn a_stack_of_127_is_mounted(rig: &Rig) {
    let mut parent = String::new();
    for i in 0..DEEPEST {
        let name = format!("sha256:{i:064x}");
        rig.layer(&name, &parent, move |root| {
            fs::write(root.join("last"), format!("{i}")).unwrap();
            fs::create_dir_all(root.join("all")).unwrap();
            fs::write(root.join(format!("all/{i}")), "").unwrap();
            if i > 0 {
                fs::remove_dir_all(root.join("only")).unwrap();
            }
            fs::create_dir(root.join("only")).unwrap();
            fs::write(root.join(format!("only/{i}")), "").unwrap();
        })
        .await;
        parent = name;
    }
    let check = |root: &Path| {
        let found = tree(root);
        assert_eq!(found["last"].3, (DEEPEST - 1).to_string());
        assert_eq!(found.keys().filter(|path| path.starts_with("all/")).count(), DEEPEST);
        assert_eq!(found.keys().filter(|path| path.starts_with("only/")).count(), 1);
    };
    rig.look(&parent, check).await;
    let mounts = rig.snapshotter.prepare("top", &parent, Labels::new()).await.unwrap();
    mounted(&mounts, |root| {
        check(root);
        fs::write(root.join("all/0"), "changed").unwrap();
    });
}

pub async fn a_parent_may_come_with_the_commit(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("base", "", |root| fs::write(root.join("below"), "").unwrap()).await;
    let mounts = s.prepare("active", "", Labels::new()).await.unwrap();
    mounted(&mounts, |root| fs::write(root.join("above"), "").unwrap());
    s.prepare("other", "", Labels::new()).await.unwrap();
    let commit = |parent: &'static str| s.commit("top", "active", parent, Labels::new());
    assert_eq!(kind(commit("none").await), Some(ErrorKind::NotFound));
    let refused = kind(commit("other").await);
    assert!(
        matches!(refused, Some(ErrorKind::FailedPrecondition | ErrorKind::Unimplemented)),
        "{refused:?}"
    );
    if !rig.rebases {
        assert_eq!(kind(commit("base").await), Some(ErrorKind::Unimplemented));
        // It is as it was.
        s.commit("top", "active", "", Labels::new()).await.unwrap();
        return;
    }
    commit("base").await.unwrap();
    assert_eq!(rig.stat("top").await.parent, "base");
    let found = rig.look("top", tree).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["above", "below"]);
    assert_eq!(kind(s.remove("base").await), Some(ErrorKind::FailedPrecondition));
}

pub async fn several_at_once_do_not_meet(rig: &Rig) {
    rig.layer("base", "", |root| fs::write(root.join("file"), "").unwrap()).await;
    let each = (0..8).map(|i| {
        let s = rig.snapshotter.clone();
        tokio::spawn(async move {
            for round in 0..4 {
                let (key, name) = (format!("key {i}"), format!("name {i} {round}"));
                let mounts = s.prepare(&key, "base", Labels::new()).await.unwrap();
                assert_eq!(s.mounts(&key).await.unwrap(), mounts);
                // One of them wins.
                let same = s.prepare("same", "base", Labels::new()).await;
                assert!(matches!(kind(same), None | Some(ErrorKind::AlreadyExists)));
                s.commit(&name, &key, "", Labels::new()).await.unwrap();
                if round % 2 == 0 {
                    s.remove(&name).await.unwrap();
                    s.cleanup().await.unwrap();
                }
            }
        })
    });
    for task in each.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(rig.names(&["kind==committed"]).await.len(), 1 + 8 * 2);
    assert_eq!(rig.names(&["kind==active"]).await, ["same"]);
    let folders = rig.snapshotter.mounts("same").await.unwrap();
    assert_eq!(mounted(&folders, tree).len(), 1);
}
