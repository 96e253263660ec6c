//! File names with stars, for `imports`.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Files that `pattern`, an absolute or relative path, matches, in the order
/// of their names. A `*` stands for any part of one name; a leading dot must
/// be written out.
pub(super) fn expand(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let name = match part {
            Component::Normal(name) => name.to_str().filter(|name| name.contains('*')),
            _ => None,
        };
        match name {
            None => found.iter_mut().for_each(|path| path.push(part)),
            Some(name) => {
                let mut next = Vec::new();
                for folder in found {
                    next.extend(matches(&folder, name)?);
                }
                found = next;
            }
        }
    }
    found.retain(|path| path.exists());
    Ok(found)
}

fn matches(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = match fs::read_dir(here) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| is_match(pattern, name)) {
            names.push(folder.join(name));
        }
    }
    names.sort();
    Ok(names)
}

fn is_match(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        // The part before was not the last one: anywhere will do, the earliest is best.
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*.toml", ".a.toml", false),
            (".*", ".a", true),
            ("*", "a", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("**", "a", true),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_files() {
        assert!(expand(Path::new("/nowhere/*.toml")).unwrap().is_empty());
    }

    #[test]
    fn files_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["d/b.toml", "d/a.toml", "e/a.toml", "e/a.txt"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = expand(&folder.path().join("*/*.toml")).unwrap();
        let expected: Vec<_> =
            ["d/a.toml", "d/b.toml", "e/a.toml"].map(|name| folder.path().join(name)).into();
        assert_eq!(found, expected);
    }
}
