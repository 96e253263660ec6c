//! Transfers by the daemon.

use std::pin::pin;

use containerd_api::{
    from_any,
    services::transfer::v1::{TransferOptions, TransferRequest, transfer_client::TransferClient},
    to_any,
    types::{Platform as WirePlatform, transfer as wire},
};
use containerd_images::{Platform, archive::names::NameRule};
use futures::future::{Either, select};
use prost_types::Any;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Credentials, ExportOptions, ImportOptions, OnProgress, Progress, PullOptions, PushOptions,
    RegistryOptions,
};
use crate::{
    Context, Error, ErrorKind, Namespace, Result, image::descriptor_from_wire, stream::Stream,
};

/// Whether the daemon has the services for it.
pub(super) async fn is_there(namespace: &Namespace) -> Result<bool> {
    const KIND: &str = "io.containerd.grpc.v1";
    let services = ["transfer", "streaming"];
    let filters = services.map(|id| format!("type=={KIND},id=={id}"));
    let plugins = namespace.client().plugins(&filters).await?;
    Ok(services
        .iter()
        .all(|id| plugins.iter().any(|p| p.kind == KIND && p.id == *id && p.init_error.is_none())))
}

pub(super) async fn pull(
    namespace: &Namespace,
    reference: &str,
    options: &PullOptions,
) -> Result<()> {
    let host = [Platform::host()];
    let platforms = match (options.all_platforms, options.platforms.is_empty()) {
        (true, _) => &[],
        (false, true) => &host[..],
        (false, false) => &options.platforms[..],
    };
    let unpacks = match &options.unpack {
        None => Vec::new(),
        Some(snapshotter) => {
            let snapshotter = namespace.snapshotter(snapshotter).await?;
            let platforms = if platforms.is_empty() { &host[..] } else { platforms };
            platforms.iter().map(|platform| unpack(platform, &snapshotter)).collect()
        }
    };
    let destination = wire::ImageStore {
        name: reference.into(),
        labels: options.labels.clone(),
        platforms: platforms_to_wire(platforms),
        all_metadata: options.all_metadata,
        unpacks,
        ..Default::default()
    };
    let registry = Registry::open(namespace, reference, &options.registry).await?;
    let transfer = Transfer {
        namespace,
        source: to_any(&registry.source(reference)),
        destination: to_any(&destination),
        progress: options.progress.as_ref(),
    };
    transfer.run(registry.answer()).await
}

pub(super) async fn push(
    namespace: &Namespace,
    name: &str,
    reference: &str,
    options: &PushOptions,
) -> Result<()> {
    let source = wire::ImageStore {
        name: name.into(),
        platforms: platforms_to_wire(&options.platforms),
        ..Default::default()
    };
    let registry = Registry::open(namespace, reference, &options.registry).await?;
    let transfer = Transfer {
        namespace,
        source: to_any(&source),
        destination: to_any(&registry.source(reference)),
        progress: options.progress.as_ref(),
    };
    transfer.run(registry.answer()).await
}

pub(super) async fn import(
    namespace: &Namespace,
    archive: impl AsyncRead + Send + Unpin,
    options: &ImportOptions,
) -> Result<()> {
    let unpacks = match &options.unpack {
        None => Vec::new(),
        Some((platform, snapshotter)) => {
            vec![unpack(platform, &namespace.snapshotter(snapshotter).await?)]
        }
    };
    let destination = wire::ImageStore {
        name: options.index_name.clone(),
        labels: options.labels.clone(),
        platforms: platforms_to_wire(&options.platforms),
        extra_references: options.names.iter().map(name_rule).collect(),
        unpacks,
        ..Default::default()
    };
    let stream = namespace.open_stream("import").await?;
    let source = wire::ImageImportStream {
        stream: stream.id(),
        force_compress: options.compress,
        ..Default::default()
    };
    let transfer = Transfer {
        namespace,
        source: to_any(&source),
        destination: to_any(&destination),
        progress: options.progress.as_ref(),
    };
    transfer.run(stream.send_bytes(archive)).await
}

pub(super) async fn export(
    namespace: &Namespace,
    names: &[String],
    archive: impl AsyncWrite + Send + Unpin,
    options: &ExportOptions,
) -> Result<()> {
    let reference =
        |name: &String| wire::ImageReference { name: name.clone(), ..Default::default() };
    let source = wire::ImageStore {
        extra_references: names.iter().map(reference).collect(),
        ..Default::default()
    };
    let stream = namespace.open_stream("export").await?;
    let destination = wire::ImageExportStream {
        stream: stream.id(),
        media_type: String::new(),
        platforms: platforms_to_wire(&options.platforms),
        all_platforms: options.all_platforms,
        skip_compatibility_manifest: options.skip_docker_manifest,
        skip_non_distributable: options.skip_non_distributable,
    };
    let transfer = Transfer {
        namespace,
        source: to_any(&source),
        destination: to_any(&destination),
        progress: options.progress.as_ref(),
    };
    transfer.run_with_output(stream.receive_bytes(archive)).await
}

/// A request, and who wants to know how far it has come.
struct Transfer<'a> {
    namespace: &'a Namespace,
    source: Any,
    destination: Any,
    progress: Option<&'a OnProgress>,
}

impl Transfer<'_> {
    /// Waits for the answer, while `serve` does what the daemon asks for.
    async fn run(self, serve: impl Future<Output = Result<()>>) -> Result<()> {
        let mut serve = pin!(serve);
        let transfer = pin!(self.transfer());
        match select(transfer, serve.as_mut()).await {
            Either::Left((answer, _)) => answer,
            // Without what it asks for, the daemon would wait for ever.
            Either::Right((Err(error), _)) => Err(error),
            Either::Right((Ok(()), transfer)) => transfer.await,
        }
    }

    /// Waits for the answer and for the end of the output, of which the last
    /// may still be on its way when the answer comes.
    async fn run_with_output(self, output: impl Future<Output = Result<()>>) -> Result<()> {
        let output = pin!(output);
        let transfer = pin!(self.transfer());
        match select(transfer, output).await {
            Either::Left((answer, output)) => {
                answer?;
                output.await
            }
            Either::Right((written, transfer)) => {
                written?;
                transfer.await
            }
        }
    }

    async fn transfer(self) -> Result<()> {
        let mut options = TransferOptions::default();
        let mut stream = match self.progress {
            None => None,
            Some(on) => Some((self.namespace.open_stream("progress").await?, on)),
        };
        if let Some((stream, _)) = &stream {
            options.progress_stream = stream.id();
        }
        let request = self.namespace.request(TransferRequest {
            source: Some(self.source),
            destination: Some(self.destination),
            options: Some(options),
        })?;
        let mut stub = TransferClient::new(self.namespace.client().channel());
        let transfer = async { stub.transfer(request).await.context("transfer", "").map(drop) };
        let Some((stream, on)) = &mut stream else { return transfer.await };
        let mut transfer = pin!(transfer);
        let answer = {
            let tell = pin!(tell(stream, on));
            match select(transfer.as_mut(), tell).await {
                Either::Left((answer, _)) => Some(answer),
                // The daemon tells no more; that is no reason to give up.
                Either::Right(_) => None,
            }
        };
        match answer {
            None => transfer.await,
            Some(answer) => {
                // What it told last may still be on its way. It ends the stream
                // with the answer; if it does not, that is no reason to wait.
                stream.end();
                let _ = tokio::time::timeout(LAST_PROGRESS, tell(stream, on)).await;
                answer
            }
        }
    }
}

/// How long the last progress may take after the answer.
const LAST_PROGRESS: std::time::Duration = std::time::Duration::from_secs(2);

async fn tell(stream: &mut Stream, on: &OnProgress) {
    // Progress is for people: a stream that breaks fails nothing.
    while let Ok(Some(message)) = stream.receive().await {
        let Ok(progress) = from_any::<wire::Progress>(&message) else { continue };
        on(Progress {
            event: progress.event,
            name: progress.name,
            parents: progress.parents,
            done: u64::try_from(progress.progress).unwrap_or_default(),
            total: u64::try_from(progress.total).unwrap_or_default(),
            descriptor: progress.desc.and_then(|wire| descriptor_from_wire(wire).ok()),
        });
    }
}

/// A registry as the daemon is told of it, and the stream on which it asks who
/// we are.
struct Registry<'a> {
    options: &'a RegistryOptions,
    auth: Option<Stream>,
}

impl<'a> Registry<'a> {
    async fn open(
        namespace: &Namespace,
        reference: &str,
        options: &'a RegistryOptions,
    ) -> Result<Self> {
        if options.is_local() {
            let text = format!("{reference}: the daemon cannot be told of certificates");
            return Err(Error::new(ErrorKind::Unimplemented, text));
        }
        let auth = match &options.credentials {
            Credentials::None => None,
            _ => Some(namespace.open_stream("auth").await?),
        };
        Ok(Self { options, auth })
    }

    fn source(&self, reference: &str) -> wire::OciRegistry {
        let options = self.options;
        let host_dir = options.hosts_dir.as_ref().map(|dir| dir.display().to_string());
        let resolver = wire::RegistryResolver {
            auth_stream: self.auth.as_ref().map(Stream::id).unwrap_or_default(),
            host_dir: host_dir.unwrap_or_default(),
            default_scheme: if options.plain_http { "http".into() } else { String::new() },
            ..Default::default()
        };
        wire::OciRegistry { reference: reference.into(), resolver: Some(resolver) }
    }

    /// Answers whoever asks who we are.
    async fn answer(self) -> Result<()> {
        let Some(mut stream) = self.auth else { return Ok(()) };
        while stream.receive().await?.is_some() {
            stream.send(to_any(&answer(&self.options.credentials))).await?;
        }
        Ok(())
    }
}

fn answer(credentials: &Credentials) -> wire::AuthResponse {
    let (kind, username, secret) = match credentials {
        Credentials::None => (wire::AuthType::None, "", ""),
        Credentials::Basic { username, password } => {
            (wire::AuthType::Credentials, username.as_str(), password.as_str())
        }
        Credentials::RefreshToken(token) => (wire::AuthType::Refresh, "", token.as_str()),
        Credentials::Header(value) => (wire::AuthType::Header, "", value.as_str()),
    };
    wire::AuthResponse {
        auth_type: kind.into(),
        secret: secret.into(),
        username: username.into(),
        expire_at: None,
    }
}

fn unpack(platform: &Platform, snapshotter: &str) -> wire::UnpackConfiguration {
    wire::UnpackConfiguration {
        platform: Some(platform_to_wire(platform)),
        snapshotter: snapshotter.into(),
    }
}

fn name_rule(rule: &NameRule) -> wire::ImageReference {
    wire::ImageReference {
        name: rule.name.clone(),
        is_prefix: rule.is_prefix,
        allow_overwrite: rule.allow_overwrite,
        add_digest: rule.add_digest,
        skip_named_digest: rule.skip_named_digest,
    }
}

fn platforms_to_wire(platforms: &[Platform]) -> Vec<WirePlatform> {
    platforms.iter().map(platform_to_wire).collect()
}

fn platform_to_wire(platform: &Platform) -> WirePlatform {
    WirePlatform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}
