//! The programs by which other people make and read images.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::samples::programs;
use crate::{Sandbox, time::within_time};

/// A label that the image of [`buildah_image`] has.
pub const BUILDER_LABEL: &str = "tests.made-by";

/// How long one may take on a slow machine, with the largest of images.
const LIMIT: Duration = Duration::from_secs(300);

/// A program that Debian has a package of, run in the mount namespace of a test.
pub struct Tool<'a> {
    sandbox: &'a Sandbox,
    program: &'static str,
}

impl<'a> Tool<'a> {
    /// Copies images from anywhere to anywhere.
    pub fn skopeo(sandbox: &'a Sandbox) -> Self {
        Self { sandbox, program: "/usr/bin/skopeo" }
    }

    /// Changes image layouts.
    pub fn umoci(sandbox: &'a Sandbox) -> Self {
        Self { sandbox, program: "/usr/bin/umoci" }
    }

    /// Builds images.
    pub fn buildah(sandbox: &'a Sandbox) -> Self {
        Self { sandbox, program: "/usr/bin/buildah" }
    }

    /// Runs it to its end; the answer is its standard output.
    ///
    /// # Errors
    /// It fails.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let (program, words) = self.sandbox.command(Path::new(self.program));
        let child = Command::new(program)
            .args(words)
            .args(arguments)
            // Where it keeps what it downloads, and its settings.
            .env("TMPDIR", self.sandbox.folder())
            .env("HOME", self.sandbox.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context(self.program)?;
        let what = format!("{} {}", self.program, arguments.join(" "));
        let output = within_time(LIMIT, &what, child.wait_with_output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `skopeo copy`, to and from registries without TLS.
    ///
    /// # Errors
    /// It fails.
    pub async fn copy(&self, flags: &[&str], from: &str, to: &str) -> Result<()> {
        let plain = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
        let mut words = plain.to_vec();
        words.push("--dest-tls-verify=false");
        words.extend(flags);
        words.extend([from, to]);
        self.run(&words).await.map(drop)
    }
}

/// An image layout in which umoci has made the image `made`: one from nothing with
/// busybox and a second layer, which says `umoci` when it runs.
///
/// # Errors
/// umoci fails.
pub async fn umoci_image(sandbox: &Sandbox) -> Result<PathBuf> {
    let umoci = Tool::umoci(sandbox);
    let folder = sandbox.path("umoci");
    let image = format!("{}:made", folder.display());
    let layout = folder.display().to_string();
    let bundle = sandbox.path("umoci-bundle").display().to_string();
    umoci.run(&["init", "--layout", &layout]).await?;
    umoci.run(&["new", "--image", &image]).await?;
    let root = sandbox.rootfs().display().to_string();
    umoci.run(&["insert", "--image", &image, &format!("{root}/bin"), "/bin"]).await?;
    umoci.run(&["insert", "--image", &image, &format!("{root}/etc"), "/etc"]).await?;
    umoci.run(&["unpack", "--image", &image, &bundle]).await?;
    fs::remove_file(format!("{bundle}/rootfs/etc/group"))?;
    fs::write(format!("{bundle}/rootfs/who"), "umoci\n")?;
    umoci.run(&["repack", "--image", &image, &bundle]).await?;
    let config = ["config", "--image", &image, "--config.env", "PATH=/bin"];
    let command = ["--config.cmd", "/bin/cat", "--config.cmd", "/who"];
    umoci.run(&[&config[..], &command].concat()).await?;
    fs::remove_dir_all(bundle)?;
    Ok(folder)
}

/// An image layout in which buildah has made the image `made` from a file with
/// instructions; it says `buildah` when it runs.
///
/// # Errors
/// buildah fails.
pub async fn buildah_image(sandbox: &Sandbox) -> Result<PathBuf> {
    let buildah = Tool::buildah(sandbox);
    let context = sandbox.path("buildah-context");
    fs::create_dir(&context)?;
    fs::write(context.join("base.tar"), programs()?)?;
    let file = context.join("Containerfile");
    fs::write(
        &file,
        format!(
            "FROM scratch\n\
             ADD base.tar /\n\
             RUN echo buildah > /who && rm /etc/group && ln /who /me\n\
             LABEL {BUILDER_LABEL}=buildah\n\
             CMD [\"/bin/cat\", \"/me\"]\n"
        ),
    )?;
    let folder = sandbox.path("buildah");
    let storage = sandbox.path("buildah-storage").display().to_string();
    let run = sandbox.path("buildah-run").display().to_string();
    let own = ["--root", &storage, "--runroot", &run, "--storage-driver", "vfs"];
    let policy = policy(sandbox)?;
    let target = format!("oci:{}:made", folder.display());
    let file = file.display().to_string();
    let context = context.display().to_string();
    let build = [
        "bud",
        "--quiet",
        "--isolation",
        "chroot",
        "--layers",
        "--format",
        "oci",
        "--signature-policy",
        &policy,
        "--tag",
        "made",
        "--file",
        &file,
        &context,
    ];
    buildah.run(&[&own[..], &build].concat()).await?;
    let push = ["push", "--quiet", "--signature-policy", &policy, "made", &target];
    buildah.run(&[&own[..], &push].concat()).await?;
    Ok(folder)
}

/// The file that says that unsigned images are welcome.
fn policy(sandbox: &Sandbox) -> Result<String> {
    let path = sandbox.path("policy.json");
    fs::write(&path, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
    Ok(path.display().to_string())
}
