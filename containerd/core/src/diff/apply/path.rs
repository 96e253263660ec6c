//! Names in archives, as paths below the root.

use super::super::tar::refused;
use shim_protocol::Result;

/// The longest path, with a NUL byte behind it (Linux's `PATH_MAX`).
pub(super) const MAX_BYTES: usize = 4096;

const WHITEOUT: &[u8] = b".wh.";
/// What begins so is a word to whoever unpacks, and no file of that name.
const WORD: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// Something of this name.
    Thing(&'a [u8]),
    /// That lower layers have nothing of this name.
    Whiteout(&'a [u8]),
    /// That lower layers have nothing in the folder.
    Opaque,
    /// What only other unpackers know.
    Word,
}

/// Writes `name` to `path` as the path below the root that it leads to, without
/// a slash at its ends: `..` leads no further up than to the root.
///
/// # Errors
/// `InvalidArgument` when it is too long.
pub(super) fn clean(name: &[u8], path: &mut Vec<u8>) -> Result<()> {
    path.clear();
    if name.len() >= MAX_BYTES {
        let text = format!("its name has {} bytes, {} are possible", name.len(), MAX_BYTES - 1);
        return Err(refused(name, &text));
    }
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => path.truncate(split(path).0.len()),
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(())
}

/// The folder of a clean path, and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Whether a clean path is that of a folder, or of something in it.
pub(super) fn is_within(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => folder.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

/// What an entry with this name in its folder is about.
///
/// # Errors
/// `InvalidArgument` for a whiteout of the folder itself, or of the one above.
pub(super) fn meaning(base: &[u8]) -> Result<Meaning<'_>> {
    if base == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if base.starts_with(WORD) {
        return Ok(Meaning::Word);
    }
    match base.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Thing(base)),
        Some(b"" | b"." | b"..") => Err(refused(base, "a whiteout of nothing that has a name")),
        Some(hidden) => Ok(Meaning::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(name: &str) -> String {
        let mut path = b"left over".to_vec();
        clean(name.as_bytes(), &mut path).unwrap();
        String::from_utf8(path).unwrap()
    }

    #[test]
    fn names_stay_below_the_root() {
        for (name, path) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            ("..", ""),
            ("a", "a"),
            ("./a/", "a"),
            ("/a//b/./c", "a/b/c"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/b/../c", "a/c"),
            ("a/..", ""),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(cleaned(name), path, "{name}");
        }
        assert!(clean(&[b'a'; MAX_BYTES], &mut Vec::new()).is_err());
        clean(&[b'a'; MAX_BYTES - 1], &mut Vec::new()).unwrap();
    }

    #[test]
    fn a_path_is_within_its_folders_only() {
        for (path, folder, expected) in [
            ("a/b", "", true),
            ("a/b", "a", true),
            ("a", "a", true),
            ("", "", true),
            ("ab", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(is_within(path.as_bytes(), folder.as_bytes()), expected, "{path} {folder}");
        }
    }

    #[test]
    fn whiteouts_are_known_by_their_names() {
        assert_eq!(meaning(b"a").unwrap(), Meaning::Thing(b"a"));
        assert_eq!(meaning(b".wh").unwrap(), Meaning::Thing(b".wh"));
        assert_eq!(meaning(b".wh.a").unwrap(), Meaning::Whiteout(b"a"));
        assert_eq!(meaning(b".wh..a").unwrap(), Meaning::Whiteout(b".a"));
        assert_eq!(meaning(b".wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.aufs").unwrap(), Meaning::Word);
        for bad in [".wh.", ".wh..", ".wh..."] {
            meaning(bad.as_bytes()).unwrap_err();
        }
    }
}
