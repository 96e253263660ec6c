//! Users and groups, by the files of the container's own root filesystem.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};
use oci_spec::runtime::User;

use crate::{Context, Error, ErrorKind, Result};

/// The largest identifier that OCI runtimes take.
const MAX_ID: u32 = i32::MAX as u32;

/// The user that `text` names: `uid`, `name`, `uid:gid`, `name:group`. Names
/// are looked up in `/etc/passwd` and `/etc/group` below `rootfs`, and never
/// outside of it. Without a group, the user has the groups of these files; a
/// user id that they do not list has group 0.
///
/// # Errors
/// `InvalidArgument` when it is no user or a number is too large, `NotFound`
/// when there is no such name.
///
/// ```
/// # let rootfs = tempfile::tempdir().unwrap();
/// # std::fs::create_dir(rootfs.path().join("etc")).unwrap();
/// # let rootfs = rootfs.path();
/// std::fs::write(rootfs.join("etc/passwd"), "www:x:33:34::/srv:/bin/sh\n").unwrap();
/// let user = containerd_client::spec::resolve_user(rootfs, "www")?;
/// assert_eq!((user.uid(), user.gid()), (33, 34));
/// # Ok::<(), containerd_client::Error>(())
/// ```
pub fn resolve_user(rootfs: &Path, text: &str) -> Result<User> {
    let files = Files { rootfs };
    let (uid, gid, groups) = match text.split_once(':') {
        None => files.user_with_groups(text)?,
        Some((user, group)) => {
            let uid = match number("uid", user)? {
                Some(uid) => uid,
                None => files.user_named(user)?.uid,
            };
            let gid = match number("gid", group)? {
                Some(gid) => gid,
                None => files.group_named(group)?.gid,
            };
            (uid, gid, Vec::new())
        }
    };
    // The kernel lets a process give up its supplementary groups but not gain
    // any: without the first one here, a file closed to the group opens.
    let mut all = vec![gid];
    all.extend(groups.into_iter().filter(|group| *group != gid));
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(all));
    Ok(user)
}

/// As [`resolve_user`], but the user has the groups of the files in any case:
/// so containerd reads the user of an image.
pub(super) fn resolve_image_user(rootfs: &Path, text: &str) -> Result<User> {
    let mut user = resolve_user(rootfs, text)?;
    if text.contains(':') {
        let (_, _, groups) = Files { rootfs }.user_with_groups(&user.uid().to_string())?;
        let mut all = vec![user.gid()];
        all.extend(groups.into_iter().filter(|group| *group != user.gid()));
        user.set_additional_gids(Some(all));
    }
    Ok(user)
}

/// A line of `/etc/passwd`.
struct PasswdUser {
    name: String,
    uid: u32,
    gid: u32,
}

/// A line of `/etc/group`.
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

struct Files<'a> {
    rootfs: &'a Path,
}

impl Files<'_> {
    fn user_with_groups(&self, text: &str) -> Result<(u32, u32, Vec<u32>)> {
        let user = match number("uid", text)? {
            None => self.user_named(text)?,
            Some(uid) => match self.users()?.into_iter().find(|user| user.uid == uid) {
                Some(user) => user,
                None => return Ok((uid, 0, Vec::new())),
            },
        };
        let groups = self.groups()?;
        let member = groups.into_iter().filter(|g| g.members.contains(&user.name));
        Ok((user.uid, user.gid, member.map(|g| g.gid).collect()))
    }

    fn user_named(&self, name: &str) -> Result<PasswdUser> {
        let user = self.users()?.into_iter().find(|user| user.name == name);
        user.ok_or_else(|| self.nobody("user", name))
    }

    fn group_named(&self, name: &str) -> Result<Group> {
        let group = self.groups()?.into_iter().find(|group| group.name == name);
        group.ok_or_else(|| self.nobody("group", name))
    }

    fn nobody(&self, what: &str, name: &str) -> Error {
        let rootfs = self.rootfs.display();
        Error::new(ErrorKind::NotFound, format!("no {what} {name:?} in {rootfs}"))
    }

    fn users(&self) -> Result<Vec<PasswdUser>> {
        let text = self.read("etc/passwd")?;
        // name:password:uid:gid:comment:home:shell
        Ok(records(&text)
            .filter_map(|fields| {
                Some(PasswdUser {
                    name: (*fields.first()?).into(),
                    uid: fields.get(2)?.parse().ok()?,
                    gid: fields.get(3)?.parse().ok()?,
                })
            })
            .collect())
    }

    fn groups(&self) -> Result<Vec<Group>> {
        let text = self.read("etc/group")?;
        // name:password:gid:member,member
        Ok(records(&text)
            .filter_map(|fields| {
                Some(Group {
                    name: (*fields.first()?).into(),
                    gid: fields.get(2)?.parse().ok()?,
                    members: fields
                        .get(3)
                        .unwrap_or(&"")
                        .split(',')
                        .filter(|member| !member.is_empty())
                        .map(str::to_owned)
                        .collect(),
                })
            })
            .collect())
    }

    /// A file below the root filesystem; empty if it is not there.
    fn read(&self, path: &str) -> Result<String> {
        let read = || -> io::Result<String> {
            let root = open(self.rootfs, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
            // Links in there are the container's: none may lead out to the host.
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let mut bytes = Vec::new();
            File::from(openat2(&root, path, how)?).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            result => result.context("read", self.rootfs.join(path).display()),
        }
    }
}

fn records(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

/// `None` when it is a name. A number that is too large is an error: it must
/// not become a name that somebody put into the image.
fn number(what: &str, text: &str) -> Result<Option<u32>> {
    if text.is_empty() {
        return Err(Error::invalid(format!("empty {what}")));
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(Error::invalid(format!("{what} {text} is out of range"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn rootfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(
            dir.path().join("etc/passwd"),
            "# comment\nroot:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv:/bin/sh\nbroken\n",
        )
        .unwrap();
        fs::write(dir.path().join("etc/group"), "root:x:0:\nwww:x:34:\ntape:x:26:www,root\n")
            .unwrap();
        dir
    }

    fn ids(user: &User) -> (u32, u32, Vec<u32>) {
        (user.uid(), user.gid(), user.additional_gids().clone().unwrap())
    }

    #[test]
    fn names_and_numbers() {
        let dir = rootfs();
        for (text, expected) in [
            ("www", (33, 34, vec![34, 26])),
            ("33", (33, 34, vec![34, 26])),
            ("0", (0, 0, vec![0, 26])),
            ("1234", (1234, 0, vec![0])),
            ("1234:5", (1234, 5, vec![5])),
            ("www:tape", (33, 26, vec![26])),
            ("33:tape", (33, 26, vec![26])),
        ] {
            assert_eq!(ids(&resolve_user(dir.path(), text).unwrap()), expected, "{text}");
        }
        for (text, expected) in [
            ("33:34", (33, 34, vec![34, 26])),
            ("www", (33, 34, vec![34, 26])),
            ("1234:5", (1234, 5, vec![5])),
        ] {
            assert_eq!(ids(&resolve_image_user(dir.path(), text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_user() {
        let dir = rootfs();
        for (text, kind) in [
            ("nobody", ErrorKind::NotFound),
            ("www:nogroup", ErrorKind::NotFound),
            ("", ErrorKind::InvalidArgument),
            ("www:", ErrorKind::InvalidArgument),
            ("2147483648", ErrorKind::InvalidArgument),
            ("0:99999999999999", ErrorKind::InvalidArgument),
        ] {
            assert_eq!(resolve_user(dir.path(), text).unwrap_err().kind(), kind, "{text:?}");
        }
    }

    #[test]
    fn numbers_need_no_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ids(&resolve_user(dir.path(), "7").unwrap()), (7, 0, vec![0]));
    }

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/etc/passwd", dir.path().join("etc/passwd")).unwrap();
        // A link to itself, seen from inside; the host has a root.
        assert!(resolve_user(dir.path(), "root").is_err());
    }
}
