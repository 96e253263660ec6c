//! The program: how it is called, and what it may do.

use std::path::{Path, PathBuf};

use oci_spec::runtime::PosixRlimit;

use super::{
    super::{capabilities, merge_env, seccomp},
    Seccomp, SpecBuilder, UserName,
};
use crate::Result;

impl SpecBuilder {
    /// The program and its arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets environment variables: `KEY=value` sets, `KEY` alone removes.
    #[must_use]
    pub fn env<S: Into<String>>(mut self, variables: impl IntoIterator<Item = S>) -> Self {
        merge_env(&mut self.env, variables);
        self
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = path.into();
        self
    }

    /// Gives the process a terminal.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        merge_env(&mut self.env, ["TERM=xterm"]);
        self
    }

    /// The user, as [`resolve_user`](crate::spec::resolve_user) reads it.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(UserName::Plain(user.into()));
        self
    }

    /// Adds a capability, such as `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such capability.
    pub fn add_capability(mut self, name: &str) -> Result<Self> {
        self.capabilities.insert(capabilities::parse(name)?);
        Ok(self)
    }

    /// Drops a capability.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such capability.
    pub fn drop_capability(mut self, name: &str) -> Result<Self> {
        self.capabilities.remove(&capabilities::parse(name)?);
        Ok(self)
    }

    /// Lets programs gain privileges by set-user-id files.
    #[must_use]
    pub fn new_privileges(mut self) -> Self {
        self.new_privileges = true;
        self
    }

    /// Sets a resource limit, in place of one of the same kind.
    #[must_use]
    pub fn rlimit(mut self, limit: PosixRlimit) -> Self {
        self.rlimits.retain(|l| l.typ() != limit.typ());
        self.rlimits.push(limit);
        self
    }

    /// Confines system calls to containerd's default profile.
    #[must_use]
    pub fn seccomp(mut self) -> Self {
        self.seccomp = Seccomp::Default;
        self
    }

    /// Confines system calls to the profile in a file: the `linux.seccomp` part
    /// of an OCI configuration.
    ///
    /// # Errors
    /// Those of the system, and `InvalidArgument` when it is no profile.
    pub fn seccomp_profile(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.seccomp = Seccomp::Profile(Box::new(seccomp::from_file(path.as_ref())?));
        Ok(self)
    }

    /// Confines it to an AppArmor profile that the host has loaded.
    #[must_use]
    pub fn apparmor_profile(mut self, name: impl Into<String>) -> Self {
        self.apparmor_profile = Some(name.into());
        self
    }
}
