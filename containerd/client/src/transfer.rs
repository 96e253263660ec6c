//! Moving images: the daemon does it, through its transfer service. Where it
//! has none, and where that is asked for, it is done on this side
//! ([`local`]) with the same outcome.

mod local;
mod options;
mod remote;

use containerd_images::Descriptor;
use containerd_images::progress::{Report, Stage};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Image, Namespace, Result};

pub use options::{
    Credentials, ExportOptions, ImportOptions, OnProgress, PullOptions, PushOptions,
    RegistryOptions, Where,
};

/// How far a part of a transfer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What happens: `waiting`, `downloading`, `complete`, `extracting`…
    pub event: String,
    /// To which part; empty for the transfer as a whole.
    pub name: String,
    /// What that is a part of.
    pub parents: Vec<String>,
    /// How much of it has been done, in bytes.
    pub done: u64,
    /// How much there is to do; 0 when that is not known.
    pub total: u64,
    /// The part itself.
    pub descriptor: Option<Descriptor>,
}

impl Progress {
    /// What happens to the whole.
    pub(crate) fn whole(event: impl Into<String>) -> Self {
        Self {
            event: event.into(),
            name: String::new(),
            parents: Vec::new(),
            done: 0,
            total: 0,
            descriptor: None,
        }
    }

    /// A report of work on this side; `moving` is what its moving is called.
    pub(crate) fn from_report(report: Report, moving: &str) -> Self {
        let event = match report.stage {
            Stage::Waiting => "waiting",
            Stage::Moving => moving,
            Stage::Complete => "complete",
            Stage::Exists => "already exists",
            Stage::Extracting => "extracting",
            Stage::Extracted => "extracted",
        };
        Self {
            event: event.into(),
            name: report.name,
            parents: report.parents,
            done: report.done,
            total: report.descriptor.size,
            descriptor: Some(report.descriptor),
        }
    }
}

impl Namespace {
    /// Fetches an image and gives it its name, `reference`. It is unpacked if
    /// the options say so.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, or none for a wanted platform;
    /// `PermissionDenied` when the registry does not let us have it;
    /// `InvalidArgument` when it is no reference; those of the registry, of
    /// the daemon and of the connections to both.
    pub async fn pull(&self, reference: &str, options: &PullOptions) -> Result<Image> {
        if self.is_remote(options.place, options.registry.is_local()).await? {
            remote::pull(self, reference, options).await?;
        } else {
            local::pull(self, reference, options).await?;
        }
        self.images().get(reference).await
    }

    /// As [`Namespace::pull`], but nothing is unpacked.
    ///
    /// # Errors
    /// As [`Namespace::pull`].
    pub async fn fetch(&self, reference: &str, options: &PullOptions) -> Result<Image> {
        self.pull(reference, &PullOptions { unpack: None, ..options.clone() }).await
    }

    /// Sends the image `name` to a registry, under the name `reference`.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, or content of it is missing;
    /// `PermissionDenied` when the registry does not let us; those of the
    /// registry, of the daemon and of the connections to both.
    pub async fn push(&self, name: &str, reference: &str, options: &PushOptions) -> Result<()> {
        if self.is_remote(options.place, options.registry.is_local()).await? {
            remote::push(self, name, reference, options).await
        } else {
            local::push(self, name, reference, options).await
        }
    }

    /// Stores the images of an archive: an OCI layout or one of Docker's.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no such archive; those of the daemon, of
    /// the connection and of what is read.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        options: &ImportOptions,
    ) -> Result<()> {
        if self.is_remote(options.place, options.discard_layers).await? {
            remote::import(self, archive, options).await
        } else {
            local::import(self, archive, options).await
        }
    }

    /// Writes images into an archive that is an OCI layout, and one of Docker's
    /// too unless the options say otherwise.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, or content of it is missing;
    /// those of the daemon, of the connection and of what is written.
    pub async fn export(
        &self,
        names: &[String],
        archive: impl AsyncWrite + Send + Unpin + 'static,
        options: &ExportOptions,
    ) -> Result<()> {
        if self.is_remote(options.place, false).await? {
            remote::export(self, names, archive, options).await
        } else {
            local::export(self, names, archive, options).await
        }
    }

    /// Does the daemon do it? Not if it cannot do what is wanted (`needs_local`).
    async fn is_remote(&self, place: Where, needs_local: bool) -> Result<bool> {
        match place {
            Where::Local => Ok(false),
            Where::Anywhere if needs_local => Ok(false),
            Where::Daemon => Ok(true),
            Where::Anywhere => remote::is_there(self).await,
        }
    }
}
