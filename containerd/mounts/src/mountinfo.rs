//! The mounts of this thread's namespace (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The folder of the filesystem that is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Filesystem type.
    pub kind: String,
    /// Options of the filesystem, with "," between them.
    pub options: String,
}

/// All mounts that `wanted` says yes to, in the order they were made.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn select(wanted: impl Fn(&Entry) -> bool) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    // By line: a machine with many containers has many mounts.
    for line in BufReader::new(File::open("/proc/thread-self/mountinfo")?).split(b'\n') {
        entries.extend(parse(&line?).filter(&wanted));
    }
    Ok(entries)
}

fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    // Id, parent and device come first; then, after the mount's own options,
    // any number of tags that a dash ends.
    let root = path(fields.nth(3)?);
    let point = path(fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(Entry {
        root,
        point,
        kind: text(fields.next()?),
        options: fields.nth(1).map(text).unwrap_or_default(),
    })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Blanks, line ends and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                ((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'), after)
            }
            _ => (byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_with_blanks_and_tags() {
        let line = br"36 35 98:0 /a /run/a\040b\134c rw master:1 shared:2 - ext3 /dev/x rw,quota";
        let expected = Entry {
            root: "/a".into(),
            point: r"/run/a b\c".into(),
            kind: "ext3".into(),
            options: "rw,quota".into(),
        };
        assert_eq!(parse(line), Some(expected));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(!select(|entry| entry.point == Path::new("/")).unwrap().is_empty());
    }
}
