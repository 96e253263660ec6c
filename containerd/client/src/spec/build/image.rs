//! What an image says of the program in it.

use containerd_images::manifest::Config;

use super::{super::defaults, SpecBuilder, UserName};

impl SpecBuilder {
    /// Runs what an image says: its command in its environment, in its folder
    /// and as its user. What is set afterwards overrules it; an argument that
    /// is to take the place of the image's own comes in with
    /// [`Self::image_command`].
    #[must_use]
    pub fn image_config(mut self, config: &Config) -> Self {
        self.env = match config.env.is_empty() {
            true => vec![defaults::PATH.into()],
            false => config.env.clone(),
        };
        self.cwd = match config.working_dir.is_empty() {
            true => "/".into(),
            false => (&config.working_dir).into(),
        };
        // Root has groups too.
        let user = if config.user.is_empty() { "0" } else { &config.user };
        self.user = Some(UserName::OfImage(user.into()));
        self.image_command(config, &[])
    }

    /// The image's entrypoint with other arguments than the image's; with those
    /// if there are none.
    #[must_use]
    pub fn image_command(self, config: &Config, args: &[String]) -> Self {
        let args = if args.is_empty() { &config.cmd } else { args };
        self.args(config.entrypoint.iter().chain(args))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use oci_spec::runtime::{Process, Spec};

    use super::*;

    fn config() -> Config {
        Config {
            env: vec!["PATH=/opt/bin".into(), "LANG=C".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            working_dir: "/srv".into(),
            user: "www".into(),
            ..Config::default()
        }
    }

    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv:/bin/sh\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), "tape:x:26:www\ndisk:x:6:root\n").unwrap();
        dir
    }

    fn process(spec: &Spec) -> &Process {
        spec.process().as_ref().unwrap()
    }

    fn build(config: &Config, change: impl FnOnce(SpecBuilder) -> SpecBuilder) -> Spec {
        let builder = change(SpecBuilder::new("default", "web").image_config(config));
        builder.build_with(files().path()).unwrap()
    }

    #[test]
    fn the_image_says_what_is_run() {
        let spec = build(&config(), |builder| builder);
        let process = process(&spec);
        assert_eq!(process.args().as_ref().unwrap(), &["/entry", "default"]);
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/opt/bin", "LANG=C"]);
        assert_eq!(process.cwd(), Path::new("/srv"));
        assert_eq!((process.user().uid(), process.user().gid()), (33, 34));
        assert_eq!(process.user().additional_gids().as_ref().unwrap(), &[34, 26]);
    }

    #[test]
    fn what_comes_later_overrules_the_image() {
        let spec = build(&config(), |builder| {
            let builder = builder.image_command(&config(), &["other".into()]);
            builder.env(["LANG=de", "A=1"]).cwd("/tmp").user("0:5")
        });
        let process = process(&spec);
        assert_eq!(process.args().as_ref().unwrap(), &["/entry", "other"]);
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/opt/bin", "LANG=de", "A=1"]);
        assert_eq!(process.cwd(), Path::new("/tmp"));
        assert_eq!(process.user().additional_gids().as_ref().unwrap(), &[5]);
        let spec = build(&config(), |builder| builder.args(["/bin/sh"]));
        assert_eq!(super::tests::process(&spec).args().as_ref().unwrap(), &["/bin/sh"]);
    }

    #[test]
    fn an_image_that_says_nothing_has_defaults() {
        let spec = build(&Config::default(), |builder| builder);
        let process = process(&spec);
        assert_eq!(process.env().as_ref().unwrap(), &[defaults::PATH]);
        assert_eq!(process.cwd(), Path::new("/"));
        // Root, with the groups that the image gives it.
        assert_eq!(process.user().uid(), 0);
        assert_eq!(process.user().additional_gids().as_ref().unwrap(), &[0, 6]);
    }
}
