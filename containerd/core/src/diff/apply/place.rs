//! Where a layer goes: what a list of mounts comes down to.

use std::path::{Path, PathBuf};

use shim_protocol::{Error, Result};

use crate::{Mount, diff::mounted};

/// What mounts stand for, if nobody needs to mount them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::diff) enum Place {
    /// An overlay.
    Overlay {
        /// The layer that is written to; a view has none.
        upper: Option<PathBuf>,
        /// The uppermost first.
        lower: Vec<PathBuf>,
        /// Name of the attribute of folders that hide what is below them.
        opaque: &'static str,
    },
    /// A folder.
    Folder { path: PathBuf, read_only: bool },
    /// Something else.
    Mounts(Vec<Mount>),
}

impl Place {
    /// What `mounts` stand for.
    ///
    /// # Errors
    /// `InvalidArgument` when there are none, or a folder in them is not told by
    /// its whole path.
    pub(in crate::diff) fn of(mounts: Vec<Mount>) -> Result<Self> {
        let [mount] = mounts.as_slice() else {
            return match mounts.is_empty() {
                true => Err(Error::invalid("no mounts")),
                false => Ok(Self::Mounts(mounts)),
            };
        };
        let mut options = mount.options.iter();
        if !mount.target.is_empty() || options.any(|option| mounted::is_mapping(option)) {
            return Ok(Self::Mounts(mounts));
        }
        match mount.kind.as_str() {
            "overlay" => Self::overlay(&mount.options),
            "bind" | "rbind" => {
                let read_only = mount.options.iter().any(|option| option == "ro");
                Ok(Self::Folder { path: absolute(&mount.source)?, read_only })
            }
            "" if mount.options.iter().any(|o| o == "bind" || o == "rbind") => {
                let read_only = mount.options.iter().any(|option| option == "ro");
                Ok(Self::Folder { path: absolute(&mount.source)?, read_only })
            }
            _ => Ok(Self::Mounts(mounts)),
        }
    }

    fn overlay(options: &[String]) -> Result<Self> {
        let (mut upper, mut lower) = (None, Vec::new());
        let mut opaque = super::TRUSTED_OPAQUE;
        for option in options {
            if let Some(path) = option.strip_prefix("upperdir=") {
                upper = Some(absolute(&unescape(path))?);
            } else if let Some(paths) = option.strip_prefix("lowerdir=") {
                lower = list(paths).iter().map(|path| absolute(path)).collect::<Result<_>>()?;
            } else if option == "userxattr" {
                opaque = "user.overlay.opaque";
            }
        }
        Ok(Self::Overlay { upper, lower, opaque })
    }
}

/// Paths with colons between them; one that has a colon in it has a backslash
/// before that.
fn list(paths: &str) -> Vec<String> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for character in paths.chars() {
        match character {
            '\\' if !escaped => escaped = true,
            ':' if !escaped => parts.push(std::mem::take(&mut part)),
            character => {
                part.push(character);
                escaped = false;
            }
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

fn unescape(path: &str) -> String {
    let (mut text, mut escaped) = (String::new(), false);
    for character in path.chars() {
        if character == '\\' && !escaped {
            escaped = true;
        } else {
            text.push(character);
            escaped = false;
        }
    }
    text
}

fn absolute(path: &str) -> Result<PathBuf> {
    match Path::new(path).is_absolute() {
        true => Ok(path.into()),
        false => Err(Error::invalid(format!("{path:?} is no absolute path"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { kind: kind.into(), source: source.into(), target: String::new(), options }
    }

    #[test]
    fn an_overlay_is_its_folders() {
        let options = ["index=off", "workdir=/w", "upperdir=/u", r"lowerdir=/a:/b\:c", "userxattr"];
        let place = Place::of(vec![mount("overlay", "overlay", &options)]).unwrap();
        let expected = Place::Overlay {
            upper: Some("/u".into()),
            lower: vec!["/a".into(), "/b:c".into()],
            opaque: "user.overlay.opaque",
        };
        assert_eq!(place, expected);
    }

    #[test]
    fn a_bind_mount_is_its_source() {
        let place = Place::of(vec![mount("bind", "/a", &["rbind", "rw"])]).unwrap();
        assert_eq!(place, Place::Folder { path: "/a".into(), read_only: false });
        let place = Place::of(vec![mount("bind", "/a", &["rbind", "ro"])]).unwrap();
        assert_eq!(place, Place::Folder { path: "/a".into(), read_only: true });
    }

    #[test]
    fn others_are_mounted() {
        let mapped = mount("bind", "/a", &["rbind", "uidmap=0:1:2"]);
        let inner = Mount { target: "b".into(), ..mount("bind", "/a", &[]) };
        for mounts in [
            vec![mount("btrfs", "/dev/x", &["subvol=1"])],
            vec![mount("bind", "/a", &[]), mount("bind", "/b", &[])],
            vec![mapped],
            vec![inner],
        ] {
            assert_eq!(Place::of(mounts.clone()).unwrap(), Place::Mounts(mounts));
        }
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for mounts in [vec![], vec![mount("bind", "a", &[])]] {
            Place::of(mounts).unwrap_err();
        }
    }
}
