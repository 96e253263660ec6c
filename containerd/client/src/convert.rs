//! Making an image of another one: its layers without compression, or its parts
//! in the media types of the OCI image specification.

use containerd_images::{Platform, convert::Convert, platform::Matcher};
use shim_protocol::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{Image, Images, Result};

/// How to convert an image.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// For which platforms; that of this machine if there is none. Others are
    /// left out of an index.
    pub platforms: Vec<Platform>,
    /// For all platforms.
    pub all_platforms: bool,
    /// Takes the compression from layers.
    pub uncompress: bool,
    /// Gives parts with Docker's media types those of the OCI image
    /// specification.
    pub oci: bool,
}

impl Images {
    /// Converts the image `name` and gives what comes of it the name `new`, which
    /// may stand for something else until then, and the labels of the first.
    /// Content goes through this program, unless nothing but documents changes.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, content of it is missing, or it
    /// has nothing for a wanted platform; `FailedPrecondition` when a layer is
    /// not what the configuration says; `InvalidArgument` when a document is
    /// malformed, or the new name is bad.
    pub async fn convert(&self, name: &str, new: &str, options: &ConvertOptions) -> Result<Image> {
        let platforms = match options.platforms.is_empty() {
            true => Matcher::strict(&Platform::host()),
            false => Matcher::ordered(&options.platforms),
        };
        self.namespace
            .under_lease(async |namespace| {
                let images = namespace.images();
                let image = images.get(name).await?;
                let convert = Convert {
                    content: &namespace.store(),
                    platforms: (!options.all_platforms).then_some(&platforms),
                    uncompress: options.uncompress,
                    oci: options.oci,
                    stop: &CancellationToken::new(),
                };
                let target = convert.run(&image.target).await.context("convert image", name)?;
                images.put(Image { name: new.into(), target, ..image }).await
            })
            .await
    }
}
