//! What a container is made of, from the command line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use containerd_api::{runc::v1::Options as RuncOptions, runtimeoptions, to_any};
use containerd_client::{
    Any, Container, DEFAULT_RUNTIME, Namespace, NewContainer, Runtime, SpecBuilder,
};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Mount, MountBuilder,
};
use serde_json::{Map, Value};

use crate::labels;

/// What runs a container.
#[derive(Debug, Args)]
pub(crate) struct RuntimeArgs {
    /// Name of the runtime, or path of its shim
    #[arg(long, default_value = DEFAULT_RUNTIME, value_name = "NAME")]
    pub(crate) runtime: String,
    /// Configuration file of a runtime other than runc's
    #[arg(long, value_name = "FILE")]
    runtime_config_path: Option<String>,
    /// OCI runtime that runc's shim drives, such as crun
    #[arg(long, value_name = "PROGRAM")]
    runc_binary: Option<String>,
    /// Folder for the state of the OCI runtime
    #[arg(long, value_name = "DIR")]
    runc_root: Option<String>,
    /// Let systemd make the cgroup: needs --cgroup slice:prefix:name
    #[arg(long)]
    runc_systemd_cgroup: bool,
}

impl RuntimeArgs {
    /// The runtime with its options. `cgroup` is the container's.
    pub(crate) fn runtime(&self, cgroup: Option<&str>) -> Result<Runtime> {
        if self.runtime != DEFAULT_RUNTIME {
            if self.runc_binary.is_some() || self.runc_systemd_cgroup {
                bail!("--runc-binary and --runc-systemd-cgroup are for {DEFAULT_RUNTIME} alone");
            }
            let options = self.runtime_config_path.as_ref().map(|path| {
                let config_path = path.clone();
                to_any(&runtimeoptions::v1::Options { config_path, ..Default::default() })
            });
            return Ok(Runtime { name: self.runtime.clone(), options });
        }
        if self.runc_systemd_cgroup && cgroup.is_none_or(str::is_empty) {
            bail!("--runc-systemd-cgroup needs --cgroup, such as machine.slice:ctr:web");
        }
        Ok(Runtime::runc(&RuncOptions {
            binary_name: self.runc_binary.clone().unwrap_or_default(),
            root: self.runc_root.clone().unwrap_or_default(),
            systemd_cgroup: self.runc_systemd_cgroup,
            ..RuncOptions::default()
        }))
    }
}

/// What is in a container.
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Take the first argument as a folder with the root filesystem
    #[arg(long)]
    rootfs: bool,
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
}

/// The arguments after the flags, by what they mean.
#[derive(Debug, PartialEq)]
struct Positional<'a> {
    /// Folder of the root filesystem; none with a configuration file.
    rootfs: Option<&'a str>,
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
        container = match (&self.config, positional.rootfs) {
            (Some(file), _) => container.spec(&from_file(file, &labels)?)?,
            (None, Some(rootfs)) => {
                let rootfs = std::path::absolute(rootfs)?;
                let spec = self.spec(namespace.name(), &rootfs, &positional)?;
                container.spec(&spec.build()?)?
            }
            (None, None) => bail!("no root filesystem"),
        };
        Ok(namespace.create_container(container.labels(labels)).await?)
    }

    fn positional<'a>(&self, args: &'a [String]) -> Result<Positional<'a>> {
        if self.config.is_some() {
            return match args {
                [id] => Ok(Positional { rootfs: None, id, command: &[] }),
                [] => bail!("the id of the container is missing"),
                _ => bail!("with --config, only the id of the container can be given"),
            };
        }
        let [rootfs, id, command @ ..] = args else {
            bail!("the folder of the root filesystem and the id of the container are missing")
        };
        if !self.rootfs {
            bail!(
                "{rootfs}: images are not supported yet; give the folder of a root filesystem \
                 with --rootfs, or a configuration with --config"
            );
        }
        Ok(Positional { rootfs: Some(rootfs), id, command })
    }

    /// In the order of containerd's `ctr`, where one option overrules another.
    fn spec(
        &self,
        namespace: &str,
        rootfs: &Path,
        positional: &Positional<'_>,
    ) -> Result<SpecBuilder> {
        let mut spec = SpecBuilder::new(namespace, positional.id).rootfs(rootfs);
        if let Some(file) = &self.env_file {
            spec = spec.env(env_file(file)?);
        }
        spec = spec.env(&self.env).args(positional.command).cpu_shares(self.cpu_shares);
        for mount in &self.mount {
            spec = spec.mount(parse_mount(mount)?);
        }
        if let (Some(uids), Some(gids)) = (&self.uidmap, &self.gidmap) {
            spec = spec.user_namespace(parse_id_mapping(uids)?, parse_id_mapping(gids)?);
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
            spec = spec.join_namespace(namespace_type(kind)?, path);
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

/// Options of the runtime for one task, where they differ from the container's.
pub(crate) fn task_options(container: &Container, no_pivot: bool) -> Result<Option<Any>> {
    let spec = container.spec()?;
    let first = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.iter().flatten().next().map_or(0, LinuxIdMapping::host_id)
    };
    let linux = spec.linux().as_ref();
    // The pipes of a container belong to its root user, so that it can reopen
    // them.
    let io_uid = linux.map_or(0, |linux| first(linux.uid_mappings()));
    let io_gid = linux.map_or(0, |linux| first(linux.gid_mappings()));
    if !no_pivot && io_uid == 0 && io_gid == 0 {
        return Ok(None);
    }
    let options = match &container.record().runtime.options {
        Some(any) => containerd_api::from_any(any).context("options of the runtime")?,
        None => RuncOptions::default(),
    };
    Ok(Some(to_any(&RuncOptions { no_pivot_root: no_pivot, io_uid, io_gid, ..options })))
}

/// The configuration in a file, with the labels as annotations.
fn from_file(file: &Path, labels: &BTreeMap<String, String>) -> Result<Value> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let mut spec: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))?;
    let fields =
        spec.as_object_mut().ok_or_else(|| anyhow!("{} is no JSON object", file.display()))?;
    if !labels.is_empty() {
        let annotations = fields.entry("annotations").or_insert_with(|| Map::new().into());
        let annotations = annotations
            .as_object_mut()
            .ok_or_else(|| anyhow!("annotations in {} are no JSON object", file.display()))?;
        annotations.extend(labels.iter().map(|(key, value)| (key.clone(), value.clone().into())));
    }
    Ok(spec)
}

/// Variables, one in a line; empty lines and lines with a `#` first are none.
fn env_file(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn parse_mount(text: &str) -> Result<Mount> {
    let mut mount = MountBuilder::default();
    let mut destination = false;
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| anyhow!("mount {text:?}: {field:?} is not key=value"))?;
        mount = match key {
            "type" => mount.typ(value),
            "source" | "src" => mount.source(value),
            "destination" | "dst" => {
                destination = true;
                mount.destination(value)
            }
            "options" => mount.options(value.split(':').map(str::to_owned).collect::<Vec<_>>()),
            _ => bail!("mount {text:?}: unknown key {key:?}"),
        };
    }
    if !destination {
        bail!("mount {text:?} has no destination (dst)");
    }
    Ok(mount.build()?)
}

fn parse_id_mapping(text: &str) -> Result<LinuxIdMapping> {
    let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
    let Ok([container, host, length]) = numbers.as_deref() else {
        bail!("mapping {text:?} is not three numbers, such as 0:100000:65536");
    };
    let mapping =
        LinuxIdMappingBuilder::default().container_id(*container).host_id(*host).size(*length);
    Ok(mapping.build()?)
}

fn namespace_type(name: &str) -> Result<LinuxNamespaceType> {
    Ok(match name {
        "pid" => LinuxNamespaceType::Pid,
        "network" => LinuxNamespaceType::Network,
        "mount" => LinuxNamespaceType::Mount,
        "ipc" => LinuxNamespaceType::Ipc,
        "uts" => LinuxNamespaceType::Uts,
        "user" => LinuxNamespaceType::User,
        "cgroup" => LinuxNamespaceType::Cgroup,
        _ => bail!("unknown type of namespace {name:?}"),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use oci_spec::runtime::Spec;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        container: ContainerArgs,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    }

    fn line(flags: &str) -> Line {
        let words = ["x"].into_iter().chain(flags.split_whitespace());
        Line::try_parse_from(words).unwrap()
    }

    fn spec(flags: &str) -> Result<Spec> {
        let line = line(flags);
        let positional = line.container.positional(&line.args)?;
        let rootfs = Path::new(positional.rootfs.unwrap());
        Ok(line.container.spec("default", rootfs, &positional)?.build()?)
    }

    #[test]
    fn images_are_refused_with_a_hint() {
        let line = line("docker.io/library/redis:7 web");
        let error = line.container.positional(&line.args).unwrap_err().to_string();
        assert!(error.contains("--rootfs"), "{error}");
    }

    #[test]
    fn a_configuration_takes_an_id_only() {
        let good = line("--config c.json web");
        let positional = good.container.positional(&good.args).unwrap();
        assert_eq!(positional, Positional { rootfs: None, id: "web", command: &[] });
        let bad = line("--config c.json web sh");
        assert!(bad.container.positional(&bad.args).is_err());
    }

    #[test]
    fn flags_become_a_configuration() {
        let spec = spec(
            "--rootfs --env A=1 --env A=2 --cwd /tmp --memory-limit 4096 --cpus 0.5 --read-only \
             --mount type=bind,src=/a,dst=/b,options=rbind:ro --label x=y --annotation k=v \
             --cap-add CAP_SYS_ADMIN --cap-drop CAP_KILL --hostname h -t / web /bin/true -v",
        )
        .unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &["/bin/true", "-v"]);
        let env = process.env().as_ref().unwrap();
        assert!(env.contains(&"A=2".to_owned()) && env.contains(&"TERM=xterm".to_owned()));
        assert_eq!(process.terminal(), Some(true));
        let linux = spec.linux().as_ref().unwrap();
        let resources = linux.resources().as_ref().unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(4096));
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(50_000));
        assert_eq!(resources.cpu().as_ref().unwrap().shares(), Some(1024));
        let mounts = spec.mounts().as_ref().unwrap();
        assert_eq!(mounts.last().unwrap().destination(), Path::new("/b"));
        let annotations = spec.annotations().as_ref().unwrap();
        assert_eq!((annotations["x"].as_str(), annotations["k"].as_str()), ("y", "v"));
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    }

    #[test]
    fn a_mount_takes_the_place_of_one() {
        let spec = spec("--rootfs --mount type=bind,src=/a,dst=/run / web").unwrap();
        let mounts = spec.mounts().as_ref().unwrap();
        let run: Vec<_> = mounts.iter().filter(|m| m.destination() == Path::new("/run")).collect();
        assert_eq!(run.len(), 1);
        assert_eq!(run[0].typ().as_deref(), Some("bind"));
    }

    #[test]
    fn bad_flags_are_named() {
        for (flags, word) in [
            ("--rootfs --mount type / web", "type"),
            ("--rootfs --mount type=bind,src=/a / web", "dst"),
            ("--rootfs --cap-add SYS_ADMIN / web", "SYS_ADMIN"),
            ("--rootfs --with-ns net:/x / web", "net"),
            ("--rootfs --annotation a / web", "key=value"),
            ("--rootfs --uidmap 1:2 --gidmap 1:2:3 / web", "1:2"),
        ] {
            let error = format!("{:#}", spec(flags).unwrap_err());
            assert!(error.contains(word), "{flags}: {error}");
        }
    }

    #[test]
    fn runc_flags_are_for_runc() {
        let runtime = |flags: &str| {
            let line = line(flags);
            line.container.runtime.runtime(line.container.cgroup.as_deref())
        };
        let options = runtime("--runc-binary crun / x").unwrap().options.unwrap();
        let options: RuncOptions = containerd_api::from_any(&options).unwrap();
        assert_eq!(options.binary_name, "crun");
        assert!(runtime("--runtime io.containerd.kata.v2 --runc-binary crun / x").is_err());
        assert!(runtime("--runc-systemd-cgroup / x").is_err());
        assert!(runtime("--runc-systemd-cgroup --cgroup a.slice:b:c / x").is_ok());
    }

    #[test]
    fn labels_become_annotations_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"ociVersion": "1.0.2", "annotations": {"a": "1"}}"#).unwrap();
        let labels = labels::parse(&["b=2".to_owned()]);
        let spec = from_file(file.path(), &labels).unwrap();
        assert_eq!(spec["annotations"], serde_json::json!({"a": "1", "b": "2"}));
    }
}
