//! The formats of cgroup files. A file that is not there, or of a group that
//! has just gone, has no content: which files there are depends on the kernel.

use std::{fs, io, path::Path};

use nix::libc;

use crate::kernel;

/// A whole file.
pub(super) fn text(group: &Path, name: &str) -> io::Result<String> {
    match kernel::read(group.join(name)) {
        Err(error) if is_absent(&error) => Ok(String::new()),
        result => result,
    }
}

fn is_absent(error: &io::Error) -> bool {
    // ENODEV: the group was removed. EOPNOTSUPP: switched off, as pressure can be.
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP))
}

/// One number; "max" is the largest there is.
pub(super) fn number(group: &Path, name: &str) -> io::Result<u64> {
    Ok(parse(text(group, name)?.trim()))
}

/// A number, or 0 for what is none: v1 has "-1" for no limit in places.
pub(super) fn parse(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or_default() }
}

/// Lines of a name and a number.
pub(super) struct Flat(String);

impl Flat {
    pub(super) fn read(group: &Path, name: &str) -> io::Result<Self> {
        text(group, name).map(Self)
    }

    /// The number of a name, 0 if it is not there.
    pub(super) fn get(&self, name: &str) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == name)
            .map_or(0, |(_, value)| parse(value.trim()))
    }
}

/// What stands after `name=` in a line of such pairs.
pub(super) fn pair<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Page sizes, as in `hugetlb.2MB.current`: the part before `suffix`.
pub(super) fn page_sizes(group: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut sizes = Vec::new();
    for entry in fs::read_dir(group)? {
        let name = entry?.file_name();
        let size = name.to_str().and_then(|n| n.strip_prefix("hugetlb.")?.strip_suffix(suffix));
        // "hugetlb.2MB.rsvd.current" counts reservations.
        sizes.extend(size.filter(|size| !size.contains('.')).map(String::from));
    }
    sizes.sort();
    Ok(sizes)
}

/// The device numbers that a line begins with, as in `8:16 Read 4096`.
pub(super) fn device(line: &str) -> Option<(u64, u64, &str)> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?, rest))
}

/// A line of `rdma.current` or `rdma.max`: `mlx4_0 hca_handle=2 hca_object=max`.
pub(super) struct Rdma {
    pub(super) device: String,
    pub(super) handles: u32,
    pub(super) objects: u32,
}

impl Rdma {
    fn parse(line: &str) -> Option<Self> {
        // "max" is the largest there is, in the message's width.
        let value = |name| Some(u32::try_from(parse(pair(line, name)?)).unwrap_or(u32::MAX));
        Some(Self {
            device: line.split(' ').next()?.to_owned(),
            handles: value("hca_handle")?,
            objects: value("hca_object")?,
        })
    }
}

/// The lines of `rdma.current` or `rdma.max` as a message has them.
pub(super) fn rdma_entries<E: From<Rdma>>(group: &Path, name: &str) -> io::Result<Vec<E>> {
    Ok(text(group, name)?.lines().filter_map(Rdma::parse).map(E::from).collect())
}
