//! What is recorded of snapshots.

use std::time::SystemTime;

use super::*;
use crate::snapshots::Kind;

pub async fn a_snapshot_lives(rig: &Rig) {
    let before = SystemTime::now();
    let s = &rig.snapshotter;
    let mounts = s.prepare("active", "", labels(&[("containerd.io/snapshot/a", "1")])).await;
    let mounts = mounts.unwrap();
    assert!(!mounts.is_empty());
    assert_eq!(s.mounts("active").await.unwrap(), mounts);
    let info = rig.stat("active").await;
    assert_eq!((info.kind, info.parent.as_str()), (Kind::Active, ""));
    assert_eq!(info.labels, labels(&[("containerd.io/snapshot/a", "1")]));
    assert!(info.created_at >= before && info.created_at == info.updated_at);

    // Labels are replaced, not inherited.
    s.commit("committed", "active", "", labels(&[("containerd.io/snapshot/b", "2")]))
        .await
        .unwrap();
    let committed = rig.stat("committed").await;
    assert_eq!((committed.kind, committed.parent.as_str()), (Kind::Committed, ""));
    assert_eq!(committed.labels, labels(&[("containerd.io/snapshot/b", "2")]));
    assert!(committed.created_at >= info.created_at);
    assert_eq!(kind(s.stat("active").await), Some(ErrorKind::NotFound));

    s.prepare("child", "committed", Labels::new()).await.unwrap();
    s.view("view", "committed", Labels::new()).await.unwrap();
    let (child, view) = (rig.stat("child").await, rig.stat("view").await);
    assert_eq!((child.kind, child.parent.as_str()), (Kind::Active, "committed"));
    assert_eq!((view.kind, view.parent.as_str()), (Kind::View, "committed"));
    s.view("empty", "", Labels::new()).await.unwrap();
    assert_eq!(rig.stat("empty").await.parent, "");
    assert_eq!(rig.names(&[]).await, ["child", "committed", "empty", "view"]);

    for key in ["child", "view", "empty", "committed"] {
        s.remove(key).await.unwrap();
    }
    assert_eq!(rig.names(&[]).await, Vec::<String>::new());
}

pub async fn keys_are_used_again(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("base", "", |_| {}).await;
    s.prepare("again", "base", Labels::new()).await.unwrap();
    s.remove("again").await.unwrap();
    s.view("again", "base", Labels::new()).await.unwrap();
    s.remove("again").await.unwrap();
    s.prepare("again", "", Labels::new()).await.unwrap();
    s.remove("base").await.unwrap();
    s.commit("base", "again", "", Labels::new()).await.unwrap();
    assert_eq!(rig.names(&[]).await, ["base"]);
    // A name may come again as a key.
    s.prepare("again", "base", Labels::new()).await.unwrap();
}

pub async fn labels_are_changed(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("committed", "", |_| {}).await;
    s.prepare("active", "committed", Labels::new()).await.unwrap();
    s.view("view", "committed", Labels::new()).await.unwrap();
    for key in ["committed", "active", "view"] {
        let before = rig.stat(key).await;
        let paths = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let l = |name: &str| format!("containerd.io/snapshot/{name}");
        let new = Labels::from([(l("1"), "a".into()), (l("2"), "b".into()), (l("3"), "c".into())]);
        let after = s.update(key, new.clone(), &[]).await.unwrap();
        assert_eq!((&after.labels, after.created_at), (&new, before.created_at));
        assert!(after.updated_at > before.updated_at);
        assert_eq!(
            (after.kind, &after.parent, &after.name),
            (before.kind, &before.parent, &before.name)
        );
        assert_eq!(rig.stat(key).await, after);

        let new = Labels::from([(l("1"), "new".into()), (l("4"), "d".into())]);
        let mask = paths(&[&format!("labels.{}", l("1")), &format!("labels.{}", l("2"))]);
        let after = s.update(key, new, &mask).await.unwrap();
        let expected = Labels::from([(l("1"), "new".into()), (l("3"), "c".into())]);
        assert_eq!(after.labels, expected);

        let new = Labels::from([(l("4"), "d".into())]);
        let after = s.update(key, new.clone(), &paths(&["labels"])).await.unwrap();
        assert_eq!(after.labels, new);
        let refused = s.update(key, new.clone(), &paths(&["parent"])).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
        assert_eq!(rig.stat(key).await.labels, new);
    }
}

pub async fn listings_are_filtered(rig: &Rig) {
    const LABEL: &str = "containerd.io/snapshot/l";
    let s = &rig.snapshotter;
    let with = |value: &str| labels(&[(LABEL, value)]);
    s.prepare("a-np", "", Labels::new()).await.unwrap();
    rig.layer("p", "", |_| {}).await;
    s.prepare("a", "p", Labels::new()).await.unwrap();
    s.view("v", "p", Labels::new()).await.unwrap();
    s.prepare("p-wl-tmp", "", Labels::new()).await.unwrap();
    s.commit("p-wl", "p-wl-tmp", "", with("1")).await.unwrap();
    s.prepare("a-wl", "p-wl", with("2")).await.unwrap();
    s.view("v-wl", "p-wl", with("3")).await.unwrap();
    s.prepare("a-np-wl", "", with("2")).await.unwrap();
    let label = format!("labels.{LABEL:?}");
    for (filters, expected) in [
        (vec!["kind==active".to_owned()], vec!["a", "a-np", "a-np-wl", "a-wl"]),
        (vec!["kind==view".into()], vec!["v", "v-wl"]),
        (vec!["kind==committed".into()], vec!["p", "p-wl"]),
        (vec!["name==p".into(), "name==a-np-wl".into()], vec!["a-np-wl", "p"]),
        (vec![format!("name==a-wl,{label}")], vec!["a-wl"]),
        (vec!["parent==p".into()], vec!["a", "v"]),
        (vec!["parent!=\"\"".into()], vec!["a", "a-wl", "v", "v-wl"]),
        (vec![label.clone()], vec!["a-np-wl", "a-wl", "p-wl", "v-wl"]),
        (vec![format!("{label}==2")], vec!["a-np-wl", "a-wl"]),
    ] {
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        assert_eq!(rig.names(&filters).await, expected, "{filters:?}");
    }
    let bad = s.list(&["name=p".to_owned()]).await;
    assert_eq!(kind(bad), Some(ErrorKind::InvalidArgument));
}
