//! Looking into event messages, for filters such as
//! `event.container_id==web`.
//!
//! The same fields can be asked for as in containerd (`api/events`,
//! `*_fieldpath.pb.go`): text, labels by name, and not numbers or times.

use std::collections::BTreeMap;

use containerd_api::{
    events::{
        ContainerCreate, ContainerDelete, ContainerUpdate, ContentCreate, ContentDelete,
        NamespaceCreate, NamespaceDelete, NamespaceUpdate, SnapshotCommit, SnapshotPrepare,
        SnapshotRemove, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted,
        TaskExit, TaskOom, TaskPaused, TaskResumed, TaskStart,
    },
    services::images::v1::{ImageCreate, ImageDelete, ImageUpdate},
};
use prost::{Message, Name};
use runtime_v2::Any;

/// The field at `path` of the message in `event`; `None` also when it is
/// empty, or the message is not a known one or broken.
pub(super) fn field(event: &Any, path: &[String]) -> Option<String> {
    let name = message_name(event);
    KNOWN.iter().find(|known| known.0 == name).and_then(|known| known.1(&event.value, path))
}

/// Packs a message under its bare name.
pub(super) fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Unpacks a message, if it is an `M` and not broken.
pub(super) fn unpack<M: Name + Default>(event: &Any) -> Option<M> {
    (message_name(event) == M::full_name()).then(|| M::decode(event.value.as_slice()).ok())?
}

/// The message's name, without a host part before it.
pub(super) fn message_name(event: &Any) -> &str {
    event.type_url.rsplit('/').next().unwrap_or_default()
}

trait Fields: Message + Default {
    fn field(&self, first: &str, rest: &[String]) -> Option<String>;
}

type Lookup = fn(&[u8], &[String]) -> Option<String>;

fn lookup<M: Fields>(value: &[u8], path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    M::decode(value).ok()?.field(first, rest)
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A label's name may have dots, which the filter took for separators.
fn label(labels: &BTreeMap<String, String>, rest: &[String]) -> Option<String> {
    labels.get(&rest.join(".")).cloned()
}

/// Text fields by name, then fields with something below them.
macro_rules! messages {
    ($($full_name:literal $message:ident { $($field:ident $(= $alias:literal)?),* }
       $(nested |$this:ident, $rest:ident| { $($name:literal => $value:expr),+ $(,)? })?;)+) => {
        $(impl Fields for $message {
            #[allow(unused_variables, reason = "most messages have nothing below a field")]
            fn field(&self, first: &str, rest: &[String]) -> Option<String> {
                $(if first == messages!(@name $field $($alias)?) {
                    return text(&self.$field);
                })*
                $({
                    let ($this, $rest) = (self, rest);
                    $(if first == $name {
                        return $value;
                    })+
                })?
                None
            }
        })+
        const KNOWN: &[(&str, Lookup)] = &[$(($full_name, lookup::<$message>)),+];
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $alias:literal) => { $alias };
}

messages! {
    "containerd.events.TaskCreate" TaskCreate { container_id, bundle, checkpoint }
        nested |this, rest| {
            "io" => {
                let io = this.io.as_ref()?;
                match rest.first()?.as_str() {
                    "stdin" => text(&io.stdin),
                    "stdout" => text(&io.stdout),
                    "stderr" => text(&io.stderr),
                    "terminal" => Some(io.terminal.to_string()),
                    _ => None,
                }
            },
        };
    "containerd.events.TaskStart" TaskStart { container_id };
    "containerd.events.TaskDelete" TaskDelete { container_id, id };
    "containerd.events.TaskExit" TaskExit { container_id, id };
    "containerd.events.TaskOOM" TaskOom { container_id };
    "containerd.events.TaskExecAdded" TaskExecAdded { container_id, exec_id };
    "containerd.events.TaskExecStarted" TaskExecStarted { container_id, exec_id };
    "containerd.events.TaskPaused" TaskPaused { container_id };
    "containerd.events.TaskResumed" TaskResumed { container_id };
    "containerd.events.TaskCheckpointed" TaskCheckpointed { container_id, checkpoint };
    "containerd.events.ContainerCreate" ContainerCreate { id, image }
        nested |this, rest| {
            "runtime" => match rest.first()?.as_str() {
                "name" => text(&this.runtime.as_ref()?.name),
                _ => None,
            },
        };
    "containerd.events.ContainerUpdate" ContainerUpdate { id, image, snapshot_key }
        nested |this, rest| { "labels" => label(&this.labels, rest) };
    "containerd.events.ContainerDelete" ContainerDelete { id };
    "containerd.events.NamespaceCreate" NamespaceCreate { name }
        nested |this, rest| { "labels" => label(&this.labels, rest) };
    "containerd.events.NamespaceUpdate" NamespaceUpdate { name }
        nested |this, rest| { "labels" => label(&this.labels, rest) };
    "containerd.events.NamespaceDelete" NamespaceDelete { name };
    "containerd.events.ContentCreate" ContentCreate { digest, media_type = "mediaType" };
    "containerd.events.ContentDelete" ContentDelete { digest };
    "containerd.events.SnapshotPrepare" SnapshotPrepare { key, parent, snapshotter };
    "containerd.events.SnapshotCommit" SnapshotCommit { key, name, snapshotter };
    "containerd.events.SnapshotRemove" SnapshotRemove { key, snapshotter };
    "containerd.services.images.v1.ImageCreate" ImageCreate { name }
        nested |this, rest| { "labels" => label(&this.labels, rest) };
    "containerd.services.images.v1.ImageUpdate" ImageUpdate { name }
        nested |this, rest| { "labels" => label(&this.labels, rest) };
    "containerd.services.images.v1.ImageDelete" ImageDelete { name };
}

#[cfg(test)]
mod tests {
    use containerd_api::events::TaskIo;

    use super::*;

    fn get(event: &Any, path: &str) -> Option<String> {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        field(event, &path)
    }

    #[test]
    fn text_fields_by_their_protobuf_names() {
        let exit = TaskExit { container_id: "c".into(), id: "e".into(), ..Default::default() };
        assert_eq!(get(&pack(&exit), "container_id").as_deref(), Some("c"));
        assert_eq!(get(&pack(&exit), "id").as_deref(), Some("e"));
        assert_eq!(get(&pack(&exit), "pid"), None);
        let blob = ContentCreate { media_type: "m".into(), ..Default::default() };
        assert_eq!(get(&pack(&blob), "mediaType").as_deref(), Some("m"));
        assert_eq!(get(&pack(&blob), "digest"), None, "empty is absent");
    }

    #[test]
    fn labels_with_dots_and_nested_fields() {
        let labels = BTreeMap::from([("a.b/c".to_owned(), "1".to_owned())]);
        let update = ContainerUpdate { labels, ..Default::default() };
        assert_eq!(get(&pack(&update), "labels.a.b/c").as_deref(), Some("1"));
        assert_eq!(get(&pack(&update), "labels.a"), None);
        let io = TaskIo { stdout: "/f".into(), terminal: true, ..Default::default() };
        let create = TaskCreate { io: Some(io), ..Default::default() };
        assert_eq!(get(&pack(&create), "io.stdout").as_deref(), Some("/f"));
        assert_eq!(get(&pack(&create), "io.terminal").as_deref(), Some("true"));
        assert_eq!(get(&pack(&create), "io"), None);
    }

    #[test]
    fn names_match_the_messages() {
        fn check<M: Fields + Name>() {
            let full_name = M::full_name();
            assert!(KNOWN.iter().any(|known| known.0 == full_name), "{full_name}");
        }
        check::<TaskOom>();
        check::<TaskExit>();
        check::<ContainerCreate>();
        check::<SnapshotPrepare>();
        check::<ImageUpdate>();
    }

    #[test]
    fn broken_and_unknown_messages_have_no_fields() {
        let mut event = pack(&TaskStart { container_id: "c".into(), pid: 1 });
        event.value.pop();
        assert_eq!(get(&event, "container_id"), None);
        let other = Any { type_url: "x.Y".into(), value: Vec::new() };
        assert_eq!(get(&other, "container_id"), None);
    }
}
