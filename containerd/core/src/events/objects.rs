//! Events of stored objects, put into containerd's messages.

use async_trait::async_trait;
use containerd_api::{
    events::{
        ContainerCreate, ContainerDelete, ContainerUpdate, NamespaceCreate, NamespaceDelete,
        NamespaceUpdate, SnapshotCommit, SnapshotPrepare, SnapshotRemove, container_create,
    },
    services::images::v1::{ImageCreate, ImageDelete, ImageUpdate},
};
use prost_types::Any as ProtoAny;
use runtime_v2::Any;
use shim_protocol::{Id, Result};

use super::{Exchange, content::pack};
use crate::announce::{ObjectEvent, ObjectEvents};

#[async_trait]
impl ObjectEvents for Exchange {
    async fn publish_object(&self, namespace: &Id, event: ObjectEvent) -> Result<()> {
        let topic = event.topic();
        self.publish(namespace, topic, message(event))
    }
}

fn message(event: ObjectEvent) -> Any {
    match event {
        ObjectEvent::NamespaceCreate { name, labels } => {
            pack(&NamespaceCreate { name: name.to_string(), labels })
        }
        ObjectEvent::NamespaceUpdate { name, labels } => {
            pack(&NamespaceUpdate { name: name.to_string(), labels })
        }
        ObjectEvent::NamespaceDelete { name } => pack(&NamespaceDelete { name: name.to_string() }),
        ObjectEvent::ContainerCreate { id, image, runtime } => {
            let options =
                runtime.options.map(|o| ProtoAny { type_url: o.type_url, value: o.value });
            let runtime = container_create::Runtime { name: runtime.name, options };
            pack(&ContainerCreate { id: id.to_string(), image, runtime: Some(runtime) })
        }
        ObjectEvent::ContainerUpdate { id, image, labels, snapshot_key } => {
            pack(&ContainerUpdate { id: id.to_string(), image, labels, snapshot_key })
        }
        ObjectEvent::ContainerDelete { id } => pack(&ContainerDelete { id: id.to_string() }),
        ObjectEvent::ImageCreate { name, labels } => pack(&ImageCreate { name, labels }),
        ObjectEvent::ImageUpdate { name, labels } => pack(&ImageUpdate { name, labels }),
        ObjectEvent::ImageDelete { name } => pack(&ImageDelete { name }),
        ObjectEvent::SnapshotPrepare { snapshotter, key, parent } => {
            pack(&SnapshotPrepare { key, parent, snapshotter })
        }
        ObjectEvent::SnapshotCommit { snapshotter, key, name } => {
            pack(&SnapshotCommit { key, name, snapshotter })
        }
        ObjectEvent::SnapshotRemove { snapshotter, key } => {
            pack(&SnapshotRemove { key, snapshotter })
        }
    }
}
