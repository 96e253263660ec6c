//! Client of a containerd daemon: ours, and the Go original alike.
//!
//! [`Client`] is the connection. Most things live in a namespace, so most
//! calls start at a [`Namespace`]; from there one gets to a [`Container`], its
//! [`Task`] and the task's [`Process`]es. All of these are cheap handles that
//! share the one connection. [`SpecBuilder`] makes the OCI configuration that
//! a container needs, and [`Fifos`] the pipes between a process and its user.
//!
//! A container is run like this; `examples/` has complete programs.
//!
//! ```no_run
//! use containerd_client::{Client, Fifos, NewContainer, NewTask, SpecBuilder};
//!
//! # async fn run() -> containerd_client::Result<()> {
//! let client = Client::connect("/run/containerd/containerd.sock").await?;
//! let namespace = client.namespace("default");
//!
//! let spec = SpecBuilder::new("default", "hello")
//!     .rootfs("/srv/busybox")
//!     .args(["/bin/echo", "hello"])
//!     .build()?;
//! let container = namespace.create_container(NewContainer::new("hello").spec(&spec)?).await?;
//!
//! let fifos = Fifos::create(containerd_client::FIFO_DIR, "hello", false)?;
//! let mut streams = fifos.open()?;
//! let task = container.create_task(NewTask::new(fifos.stdio().clone())).await?;
//!
//! task.start().await?;
//! if let Some(mut stdout) = streams.stdout.take() {
//!     let mut text = Vec::new();
//!     tokio::io::AsyncReadExt::read_to_end(&mut stdout, &mut text).await.ok();
//! }
//! println!("exit status {}", task.wait().await?.status);
//! task.delete().await?;
//! container.delete().await?;
//! # Ok(())
//! # }
//! ```
//!
//! An image is pulled and a container made from it like this; the container
//! gets a snapshot of its own, which goes with it.
//!
//! ```no_run
//! use containerd_client::{NewContainer, PullOptions, SpecBuilder, platform::Matcher};
//!
//! # async fn make(namespace: containerd_client::Namespace) -> containerd_client::Result<()> {
//! let snapshotter = namespace.snapshotter("").await?;
//! let options = PullOptions { unpack: Some(snapshotter.clone()), ..PullOptions::default() };
//! let image = namespace.pull("docker.io/library/redis:7", &options).await?;
//! let image = namespace.images().contents(&image, &Matcher::host()).await?;
//! let spec = SpecBuilder::new(namespace.name(), "redis").image_config(&image.config);
//! let new = NewContainer::new("redis").from_image(&image, &snapshotter, "redis");
//! let container = namespace.create_container(new.build_spec(spec)).await?;
//! container.delete_with_snapshot().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! Every failure is an [`Error`] with an [`ErrorKind`] that callers match on;
//! the daemon's own words are in its chain of causes.

mod checkpoint;
mod client;
mod container;
mod content;
mod convert;
mod diff;
mod error;
mod events;
mod image;
mod image_contents;
mod images;
mod introspection;
mod lease;
mod legacy;
mod metrics;
pub mod mount;
mod namespace;
mod process;
mod rootfs;
mod snapshot;
pub mod spec;
mod stdio;
mod store;
mod stream;
mod task;
mod time;
mod transfer;
mod unpacker;
mod views;

pub use containerd_images::{
    Algorithm, Descriptor, Digest, Platform, Reference, archive::names::NameRule, manifest,
    media_type, platform, progress, registry::Registry, walk,
};
pub use prost_types::Any;

pub use checkpoint::{ContainerCheckpoint, Restore, TaskCheckpoint};
pub use client::{Client, ConnectOptions};
pub use container::{Container, ContainerRecord, NewContainer, Runtime};
pub use content::{Content, ContentInfo, ContentReader, ContentWriter, Ingest};
pub use convert::ConvertOptions;
pub use diff::{Diff, Layer, NewLayer};
pub use error::{Context, Error, ErrorKind, Result};
pub use events::{Envelope, Events, SubscribeOptions};
pub use image::Image;
pub use image_contents::{ImageCheck, ImageContents, SnapshotUsage};
pub use images::Images;
pub use introspection::{Deprecation, Health, Plugin, PluginInfo, ServerInfo, Version};
pub use lease::{Lease, Leases, Resource};
pub use legacy::{Legacy, LegacyEvents, LegacyStats};
pub use metrics::{Metrics, Usage};
pub use namespace::{Namespace, NamespaceRecord, Namespaces};
pub use process::{Exit, Process, State, Status};
pub use snapshot::{SnapshotInfo, SnapshotKind, Snapshots};
pub use spec::SpecBuilder;
pub use stdio::{FIFO_DIR, Fifos, Stdin, Stdio, Streams};
pub use store::Store;
pub use task::{CheckpointOptions, NewExec, NewTask, PidInfo, RootMount, Task, TaskState};
pub use transfer::{
    Credentials, ExportOptions, ImportOptions, OnProgress, Progress, PullOptions, PushOptions,
    RegistryOptions, Where,
};
pub use unpacker::SnapshotUnpacker;
pub use views::Views;

/// Where containerd listens unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "/run/containerd/containerd.sock";

/// The namespace of clients that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The runtime of containers that name none.
pub const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// Label that names the signal which stops a container, such as `SIGINT`.
pub const STOP_SIGNAL_LABEL: &str = "io.containerd.image.config.stop-signal";
