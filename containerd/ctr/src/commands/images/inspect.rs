//! `ctr images inspect`

use anyhow::Result;
use clap::Args;
use containerd_client::{
    Content, Descriptor, Store,
    manifest::{Index, Manifest},
    media_type, walk,
};
use serde_json::Value;

use crate::{cli::Global, output, session, time};

/// How deep indexes are followed: as deep as those that can be pulled.
const MAX_DEPTH: usize = 8;

/// Show an image with all its parts as a tree.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Show labels and documents of the parts
    #[arg(long)]
    content: bool,
    /// Name of the image
    image: String,
}

impl Inspect {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        let image = namespace.images().get(&self.image).await?;
        output::line(&image.name)?;
        output::line(format_args!("│    Created: {}", time::go(image.created_at)))?;
        output::line(format_args!("│    Updated: {}", time::go(image.updated_at)))?;
        for (key, value) in &image.labels {
            output::line(format_args!("│    Label {key:?}: {value:?}"))?;
        }
        let tree =
            Tree { store: namespace.store(), content: namespace.content(), verbose: self.content };
        tree.print(&image.target, "└── ", "    ", 0).await
    }
}

struct Tree {
    store: Store,
    content: Content,
    verbose: bool,
}

impl Tree {
    /// Prints a part with `first` before its line and `rest` before those below.
    async fn print(&self, part: &Descriptor, first: &str, rest: &str, depth: usize) -> Result<()> {
        line(first, part)?;
        let below = format!("{rest}│   ");
        if let Some(platform) = part.platform.as_ref().filter(|p| !p.architecture.is_empty()) {
            output::line(format_args!("{below} Platform: {platform}"))?;
        }
        let document = match walk::read_document(&self.store, part).await {
            Err(e) if e.is_not_found() => {
                let text = "Content does not exist locally, skipping";
                return Ok(output::line(format_args!("{rest}└──  {text}"))?);
            }
            document => document?,
        };
        self.details(part, Some(&document), &below).await?;
        if media_type::is_manifest(&part.media_type) {
            let Manifest { config, layers, .. } = Manifest::parse(&document)?;
            let (first, below) = branch(rest, layers.is_empty());
            line(&first, &config)?;
            if self.verbose {
                let document = walk::read_document(&self.store, &config).await?;
                self.details(&config, Some(&document), &below).await?;
            }
            for (i, layer) in layers.iter().enumerate() {
                line(&branch(rest, i + 1 == layers.len()).0, layer)?;
            }
        } else if media_type::is_index(&part.media_type) && depth < MAX_DEPTH {
            let Index { manifests, .. } = Index::parse(&document)?;
            for (i, manifest) in manifests.iter().enumerate() {
                let (first, below) = branch(rest, i + 1 == manifests.len());
                Box::pin(self.print(manifest, &first, &below, depth + 1)).await?;
            }
        }
        Ok(())
    }

    async fn details(&self, part: &Descriptor, document: Option<&[u8]>, rest: &str) -> Result<()> {
        const END: &str = "└───────────────────────";
        if !self.verbose {
            return Ok(());
        }
        let info = self.content.info(&part.digest.to_string()).await?;
        if !info.labels.is_empty() {
            output::line(format_args!("{rest}┌────────Labels─────────"))?;
            for (key, value) in &info.labels {
                output::line(format_args!("{rest}│{key:?}: {value:?}"))?;
            }
            output::line(format_args!("{rest}{END}"))?;
        }
        if let Some(document) = document.filter(|_| part.media_type.ends_with("json")) {
            output::line(format_args!("{rest}┌────────Content────────"))?;
            let value: Value = serde_json::from_slice(document)?;
            let mut bytes = Vec::new();
            let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
            serde::Serialize::serialize(
                &value,
                &mut serde_json::Serializer::with_formatter(&mut bytes, format),
            )?;
            for text in String::from_utf8_lossy(&bytes).lines() {
                output::line(format_args!("{rest}│{text}"))?;
            }
            output::line(format_args!("{rest}{END}"))?;
        }
        Ok(())
    }
}

/// What comes before the line of a part and before the lines below it.
fn branch(rest: &str, last: bool) -> (String, String) {
    match last {
        false => (format!("{rest}├── "), format!("{rest}│   ")),
        true => (format!("{rest}└── "), format!("{rest}    ")),
    }
}

fn line(first: &str, part: &Descriptor) -> std::io::Result<()> {
    let Descriptor { media_type, digest, size, .. } = part;
    output::line(format_args!("{first}{media_type} @{digest} ({size} bytes)"))
}
