//! The mounts of this process's namespace (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Field of a line that has the mount point.
const MOUNT_POINT: usize = 4;

/// Mount points on and below `root`, in the order they were made; one that
/// carries several mounts comes several times.
pub(super) fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut points = Vec::new();
    // By line: a machine with many containers has many mounts.
    for line in BufReader::new(File::open("/proc/thread-self/mountinfo")?).split(b'\n') {
        let line = line?;
        if let Some(point) = mount_point(&line)
            && point.starts_with(root)
        {
            points.push(point);
        }
    }
    Ok(points)
}

fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(MOUNT_POINT)?;
    Some(OsString::from_vec(unescape(field)).into())
}

/// Blanks, line ends and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_blanks() {
        let line = br"36 35 98:0 /a /run/a\040b\134c rw master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line).unwrap(), Path::new(r"/run/a b\c"));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(below(Path::new("/")).unwrap().contains(&PathBuf::from("/")));
    }
}
