//! What a container is made of, from the command line.

mod parse;
mod runtime;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use containerd_client::{
    Container, ImageContents, Namespace, NewContainer, Platform, SpecBuilder, platform::Matcher,
};

use crate::{labels, snapshotter::SnapshotterArgs};

pub(crate) use runtime::{RuntimeArgs, task_options};

/// What is in a container.
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Take the first argument as a folder with the root filesystem
    #[arg(long)]
    rootfs: bool,
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Add a label to the snapshot of the container
    #[arg(long, value_name = "KEY=VALUE")]
    snapshotter_label: Vec<String>,
    /// Platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Take the whole OCI configuration from a file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set a variable of the environment; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Set variables from a file, one in a line
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// User, with or without group: name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Add a label, which is an annotation too
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Add an annotation
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Add a mount: type=bind,src=/host,dst=/container,options=rbind:ro
    #[arg(long, value_name = "KEY=VALUE,...")]
    mount: Vec<String>,
    /// Share the host's network
    #[arg(long)]
    net_host: bool,
    /// Join a namespace: pid, network, mount, ipc, uts, user or cgroup
    #[arg(long, value_name = "TYPE:PATH")]
    with_ns: Vec<String>,
    /// Take the walls between container and host down
    #[arg(long)]
    privileged: bool,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// How mounts of the root filesystem propagate, such as rshared
    #[arg(long, value_name = "MODE")]
    rootfs_propagation: Option<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Make the root filesystem the root without pivot_root
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Write the pid of the process to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Let programs gain privileges
    #[arg(long)]
    allow_new_privs: bool,
    /// Limit of memory, in bytes
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<u64>,
    /// Limit of CPU time, in processors
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<f64>,
    /// Weight of CPU time when others want it too
    #[arg(long, default_value_t = 1024, value_name = "WEIGHT")]
    cpu_shares: u64,
    /// Limit of CPU time in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Period of the limit of CPU time, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Cgroup; empty leaves the container in that of its shim
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Add a device, or all below a folder
    #[arg(long, value_name = "PATH")]
    device: Vec<PathBuf>,
    /// Add a capability, such as CAP_NET_ADMIN
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// Confine system calls to the default profile
    #[arg(long)]
    seccomp: bool,
    /// Confine system calls to the profile in a file
    #[arg(long, value_name = "FILE", requires = "seccomp")]
    seccomp_profile: Option<PathBuf>,
    /// Confine the container to an AppArmor profile that the host has loaded
    #[arg(long, value_name = "NAME")]
    apparmor_profile: Option<String>,
    /// Class of Intel RDT
    #[arg(long, value_name = "NAME")]
    rdt_class: Option<String>,
    /// Users of a user namespace
    #[arg(long, value_name = "CONTAINER:HOST:LENGTH", requires = "gidmap")]
    uidmap: Option<String>,
    /// Groups of a user namespace
    #[arg(long, value_name = "CONTAINER:HOST:LENGTH", requires = "uidmap")]
    gidmap: Option<String>,
    /// Let the snapshotter map the owners of an image's files; it always does
    #[arg(long, requires = "uidmap")]
    remap_labels: bool,
}

/// Where a root filesystem comes from.
#[derive(Debug, PartialEq)]
enum From<'a> {
    /// The configuration file says it.
    Configuration(&'a Path),
    /// From a folder.
    Folder(&'a str),
    /// From an image of this name.
    Image(&'a str),
}

/// The arguments after the flags, by what they mean.
#[derive(Debug, PartialEq)]
struct Positional<'a> {
    /// Where the root filesystem comes from.
    from: From<'a>,
    id: &'a str,
    command: &'a [String],
}

impl ContainerArgs {
    /// Makes the container that the arguments after the flags name.
    pub(crate) async fn create(&self, namespace: &Namespace, args: &[String]) -> Result<Container> {
        let positional = self.positional(args)?;
        let labels = labels::parse(&self.label);
        let runtime = self.runtime.runtime(self.cgroup.as_deref())?;
        let mut container = NewContainer::new(positional.id).runtime(runtime);
        container = match positional.from {
            From::Configuration(file) => container.spec(&parse::configuration(file, &labels)?)?,
            From::Folder(rootfs) => {
                let rootfs = std::path::absolute(rootfs)?;
                let spec = SpecBuilder::new(namespace.name(), positional.id).rootfs(rootfs);
                container.build_spec(self.spec(spec, &positional)?)
            }
            From::Image(name) => {
                let (image, snapshotter) = self.image(namespace, name).await?;
                let spec = SpecBuilder::new(namespace.name(), positional.id);
                let spec = self.spec(spec.image_config(&image.config), &positional)?;
                container
                    .from_image(&image, &snapshotter, positional.id)
                    .snapshot_labels(self.snapshot_labels())
                    .build_spec(spec)
            }
        };
        Ok(namespace.create_container(container.labels(labels)).await?)
    }

    /// The image and the snapshotter that it is unpacked in.
    async fn image(&self, namespace: &Namespace, name: &str) -> Result<(ImageContents, String)> {
        let images = namespace.images();
        let platforms = match &self.platform {
            Some(text) => Matcher::only(&Platform::parse(text)?),
            None => Matcher::host(),
        };
        let image = images.contents(&images.get(name).await?, &platforms).await?;
        let snapshotter = self.snapshotter.name(namespace).await?;
        if !images.is_unpacked(&image, &snapshotter).await? {
            images.unpack(&image, &snapshotter).await?;
        }
        Ok((image, snapshotter))
    }

    fn snapshot_labels(&self) -> BTreeMap<String, String> {
        let mut labels = labels::parse(&self.snapshotter_label);
        for (kind, mapping) in [("uid", &self.uidmap), ("gid", &self.gidmap)] {
            let key = format!("containerd.io/snapshot/{kind}mapping");
            labels.extend(mapping.clone().map(|mapping| (key, mapping)));
        }
        labels
    }

    fn positional<'a>(&'a self, args: &'a [String]) -> Result<Positional<'a>> {
        if let Some(file) = &self.config {
            return match args {
                [id] => Ok(Positional { from: From::Configuration(file), id, command: &[] }),
                [] => bail!("the id of the container is missing"),
                _ => bail!("with --config, only the id of the container can be given"),
            };
        }
        let [from, id, command @ ..] = args else {
            bail!("the image (or a folder with --rootfs) and the id of the container are missing")
        };
        let from = if self.rootfs { From::Folder(from) } else { From::Image(from) };
        Ok(Positional { from, id, command })
    }

    /// In the order of containerd's `ctr`, where one option overrules another.
    fn spec(&self, mut spec: SpecBuilder, positional: &Positional<'_>) -> Result<SpecBuilder> {
        if let Some(file) = &self.env_file {
            spec = spec.env(parse::env_file(file)?);
        }
        spec = spec.env(&self.env).cpu_shares(self.cpu_shares);
        if !positional.command.is_empty() {
            spec = spec.args(positional.command);
        }
        for mount in &self.mount {
            spec = spec.mount(parse::mount(mount)?);
        }
        if let (Some(uids), Some(gids)) = (&self.uidmap, &self.gidmap) {
            spec = spec.user_namespace(parse::id_mapping(uids)?, parse::id_mapping(gids)?);
        }
        if self.read_only {
            spec = spec.readonly_rootfs();
        }
        if let Some(cwd) = &self.cwd {
            spec = spec.cwd(cwd);
        }
        if let Some(user) = &self.user {
            spec = spec.user(user);
        }
        if let Some(hostname) = &self.hostname {
            spec = spec.hostname(hostname);
        }
        if self.tty {
            spec = spec.terminal();
        }
        if self.privileged {
            spec = spec.privileged()?;
        }
        if self.net_host {
            let hostname = nix::unistd::gethostname().context("get the host name")?;
            let hostname = format!("HOSTNAME={}", hostname.to_string_lossy());
            spec = spec.host_network().env([hostname]);
        }
        let annotations = labels::parse_annotations(&self.annotation)?;
        for (key, value) in annotations.into_iter().chain(labels::parse(&self.label)) {
            spec = spec.annotation(key, value);
        }
        self.confine(self.limit(spec)?)
    }

    fn limit(&self, mut spec: SpecBuilder) -> Result<SpecBuilder> {
        if let Some(cpus) = self.cpus {
            spec = spec.cpus(cpus);
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            spec = spec.cpu_quota(self.cpu_quota.unwrap_or(-1), self.cpu_period.unwrap_or(0));
        }
        if let Some(limit) = self.memory_limit {
            spec = spec.memory_limit(limit);
        }
        if let Some(cgroup) = &self.cgroup {
            spec = spec.cgroup(cgroup);
        }
        if let Some(class) = &self.rdt_class {
            spec = spec.rdt_class(class);
        }
        if let Some(mode) = &self.rootfs_propagation {
            spec = spec.rootfs_propagation(mode);
        }
        for device in &self.device {
            spec = spec.device(device, "rwm")?;
        }
        for text in &self.with_ns {
            let (kind, path) = text
                .split_once(':')
                .ok_or_else(|| anyhow!("namespace {text:?} is not TYPE:PATH"))?;
            spec = spec.join_namespace(parse::namespace_type(kind)?, path);
        }
        Ok(spec)
    }

    fn confine(&self, mut spec: SpecBuilder) -> Result<SpecBuilder> {
        for name in &self.cap_add {
            spec = spec.add_capability(name)?;
        }
        for name in &self.cap_drop {
            spec = spec.drop_capability(name)?;
        }
        if let Some(file) = &self.seccomp_profile {
            spec = spec.seccomp_profile(file)?;
        } else if self.seccomp {
            spec = spec.seccomp();
        }
        if let Some(profile) = &self.apparmor_profile {
            spec = spec.apparmor_profile(profile);
        }
        if self.allow_new_privs {
            spec = spec.new_privileges();
        }
        Ok(spec)
    }
}
