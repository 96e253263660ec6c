//! Sandboxes as clients see them.

use shim_protocol::{Error, ErrorKind, Result};

use super::*;
use crate::testing::{World, any, id, labels};

const NONE: &[&str] = &[];

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn sandbox(name: &str) -> Sandbox {
    Sandbox {
        id: id(name),
        labels: labels(&[("k.1", "v")]),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: Some(any("options")) },
        spec: Some(any("spec")),
        extensions: [("x".to_owned(), any("1"))].into(),
        sandboxer: "podsandbox".into(),
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn what_is_created_is_found_again_until_it_is_deleted() {
    let World { sandboxes, namespaces, .. } = World::new();
    let made = sandboxes.create(&id("ns"), sandbox("a")).await.unwrap();
    assert!(made.created_at > SystemTime::UNIX_EPOCH && made.updated_at == made.created_at);
    let Sandbox { created_at, updated_at, .. } = made;
    assert_eq!(made, Sandbox { created_at, updated_at, ..sandbox("a") });
    assert_eq!(sandboxes.get(&id("ns"), "a").await.unwrap(), made);
    let again = sandboxes.create(&id("ns"), sandbox("a")).await;
    assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));

    let bare = Sandbox {
        labels: BTreeMap::new(),
        runtime: Runtime::default(),
        spec: None,
        extensions: BTreeMap::new(),
        sandboxer: String::new(),
        ..sandbox("b")
    };
    sandboxes.create(&id("ns"), bare).await.unwrap();
    for (filters, expected) in
        [(NONE, &["a", "b"][..]), (&["id==b"], &["b"]), (&["labels.k.1==v"], &["a"])]
    {
        let found = sandboxes.list(&id("ns"), filters).await.unwrap();
        assert_eq!(found.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), expected);
    }
    // A namespace can go with the sandboxes in it (as in containerd).
    sandboxes.delete(&id("ns"), "a").await.unwrap();
    assert_eq!(kind(sandboxes.delete(&id("ns"), "a").await), Some(ErrorKind::NotFound));
    assert_eq!(kind(sandboxes.get(&id("ns"), "a").await), Some(ErrorKind::NotFound));
    namespaces.delete(&id("ns")).await.unwrap();
    assert_eq!(sandboxes.list(&id("ns"), NONE).await.unwrap(), []);
}

#[tokio::test]
async fn only_what_the_mask_names_is_changed() {
    let World { sandboxes, .. } = World::new();
    let unknown = sandboxes.update(&id("ns"), sandbox("a"), NONE).await;
    assert_eq!(kind(unknown), Some(ErrorKind::NotFound));
    let made = sandboxes.create(&id("ns"), sandbox("a")).await.unwrap();
    let new = Sandbox {
        labels: labels(&[("l", "w")]),
        runtime: Runtime { options: None, ..made.runtime.clone() },
        spec: Some(any("new")),
        extensions: [("y".to_owned(), any("2"))].into(),
        ..made.clone()
    };
    let Sandbox { labels: l, runtime, spec, extensions, .. } = new.clone();
    for (paths, expected) in [
        (
            &["labels.l"][..],
            Sandbox { labels: labels(&[("k.1", "v"), ("l", "w")]), ..made.clone() },
        ),
        (&["labels.k.1"], Sandbox { labels: labels(&[]), ..made.clone() }),
        (&["labels"], Sandbox { labels: l, ..made.clone() }),
        (&["spec"], Sandbox { spec, ..made.clone() }),
        (&["extensions"], Sandbox { extensions, ..made.clone() }),
        (&["extensions.x"], Sandbox { extensions: BTreeMap::new(), ..made.clone() }),
        (&["runtime"], Sandbox { runtime, ..made.clone() }),
        (&[], new.clone()),
    ] {
        let updated = sandboxes.update(&id("ns"), new.clone(), paths).await.unwrap();
        let updated_at = updated.updated_at;
        assert!(updated_at > made.updated_at);
        assert_eq!(updated, Sandbox { updated_at, ..expected }, "{paths:?}");
        assert_eq!(sandboxes.get(&id("ns"), "a").await.unwrap(), updated);
        let all = &["labels", "extensions", "spec", "runtime"];
        sandboxes.update(&id("ns"), made.clone(), all).await.unwrap();
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let World { sandboxes, .. } = World::new();
    sandboxes.create(&id("ns"), sandbox("a")).await.unwrap();
    let other =
        Sandbox { runtime: Runtime { name: "other".into(), options: None }, ..sandbox("a") };
    let nameless = Sandbox { extensions: [(String::new(), any("1"))].into(), ..sandbox("b") };
    let refused = [
        kind(sandboxes.update(&id("ns"), other, NONE).await),
        kind(sandboxes.create(&id("ns"), nameless).await),
        kind(sandboxes.update(&id("ns"), sandbox("a"), &["sandboxer"]).await),
        kind(sandboxes.list(&id("ns"), &["=="]).await),
    ];
    assert_eq!(refused, [Some(ErrorKind::InvalidArgument); 4]);
}
