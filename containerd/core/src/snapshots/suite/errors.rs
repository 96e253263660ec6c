//! What fails, and how (containerd, `core/snapshots/storage/bolt.go`).

use super::*;

pub async fn wrong_kinds_and_orders_are_refused(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("base", "", |_| {}).await;
    s.prepare("active", "base", Labels::new()).await.unwrap();
    s.view("view", "base", Labels::new()).await.unwrap();
    let none = Labels::new;
    for parent in ["active", "view"] {
        for outcome in [s.prepare("new", parent, none()).await, s.view("new", parent, none()).await]
        {
            assert_eq!(kind(outcome), Some(ErrorKind::InvalidArgument), "{parent}");
        }
    }
    for key in ["view", "base"] {
        let outcome = s.commit("new", key, "", none()).await;
        assert_eq!(kind(outcome), Some(ErrorKind::FailedPrecondition), "{key}");
    }
    assert_eq!(kind(s.mounts("base").await), Some(ErrorKind::FailedPrecondition));
    // It has a parent, which is not changed.
    rig.layer("other", "", |_| {}).await;
    let outcome = s.commit("new", "active", "other", none()).await;
    assert_eq!(kind(outcome), Some(ErrorKind::InvalidArgument));
    assert_eq!(rig.stat("active").await.parent, "base");
    assert_eq!(rig.names(&[]).await, ["active", "base", "other", "view"]);
    s.commit("new", "active", "base", none()).await.unwrap();
    assert_eq!(rig.stat("new").await.parent, "base");
}

pub async fn taken_names_are_refused(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("base", "", |_| {}).await;
    s.prepare("active", "base", Labels::new()).await.unwrap();
    s.view("view", "base", Labels::new()).await.unwrap();
    let taken = Some(ErrorKind::AlreadyExists);
    for key in ["base", "active", "view"] {
        let before = rig.stat(key).await;
        assert_eq!(kind(s.prepare(key, "base", Labels::new()).await), taken);
        assert_eq!(kind(s.view(key, "base", Labels::new()).await), taken);
        assert_eq!(kind(s.prepare(key, "", Labels::new()).await), taken);
        if key != "active" {
            assert_eq!(kind(s.commit(key, "active", "", Labels::new()).await), taken);
        }
        assert_eq!(rig.stat(key).await, before);
    }
    // Also while it would replace itself.
    assert_eq!(kind(s.commit("active", "active", "", Labels::new()).await), taken);
    mounted(&s.mounts("active").await.unwrap(), |folder| {
        fs::write(folder.join("still"), "there").unwrap();
    });
}

pub async fn what_is_missing_is_not_found(rig: &Rig) {
    let s = &rig.snapshotter;
    let missing = Some(ErrorKind::NotFound);
    assert_eq!(kind(s.stat("none").await), missing);
    assert_eq!(kind(s.usage("none").await), missing);
    assert_eq!(kind(s.mounts("none").await), missing);
    assert_eq!(kind(s.remove("none").await), missing);
    assert_eq!(kind(s.update("none", Labels::new(), &[]).await), missing);
    assert_eq!(kind(s.prepare("new", "none", Labels::new()).await), missing);
    assert_eq!(kind(s.view("new", "none", Labels::new()).await), missing);
    assert_eq!(kind(s.commit("new", "none", "", Labels::new()).await), missing);
    assert_eq!(rig.names(&[]).await, Vec::<String>::new());
}

pub async fn parents_stay(rig: &Rig) {
    let s = &rig.snapshotter;
    rig.layer("base", "", |_| {}).await;
    rig.layer("middle", "base", |_| {}).await;
    s.prepare("top", "middle", Labels::new()).await.unwrap();
    s.view("view", "middle", Labels::new()).await.unwrap();
    let refused = Some(ErrorKind::FailedPrecondition);
    assert_eq!(kind(s.remove("base").await), refused);
    assert_eq!(kind(s.remove("middle").await), refused);
    s.remove("top").await.unwrap();
    assert_eq!(kind(s.remove("middle").await), refused);
    s.remove("view").await.unwrap();
    assert_eq!(kind(s.remove("base").await), refused);
    s.remove("middle").await.unwrap();
    s.remove("base").await.unwrap();
    assert_eq!(rig.names(&[]).await, Vec::<String>::new());
}
