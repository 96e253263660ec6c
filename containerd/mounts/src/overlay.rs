//! Overlay mounts with many layers: mount(2) takes one page of data at most.
//!
//! All layers of a snapshotter live below one folder. From within that folder
//! their paths are short enough for several hundred of them, as many as the
//! kernel stacks.

use std::path::{Path, PathBuf};

/// Options that name one folder.
const SINGLE: [&str; 2] = ["upperdir=", "workdir="];
/// The option that names several, with ":" between them.
const LOWER: &str = "lowerdir=";

/// Rewrites the folders in `data` relative to the deepest one that holds them
/// all. `None` when there is no such folder, or a path has an escaped ":".
pub(crate) fn shorten(data: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let folders: Vec<&Path> = data.iter().flat_map(|option| folders(option)).collect();
    let (first, others) = folders.split_first()?;
    let mut base = first.parent()?;
    while !others.iter().all(|path| path.starts_with(base) && *path != base) {
        base = base.parent()?;
    }
    if base == Path::new("/") || data.iter().any(|option| option.contains('\\')) {
        return None;
    }
    let shortened = data.iter().map(|option| rewrite(option, base)).collect::<Option<_>>()?;
    Some((base.to_owned(), shortened))
}

/// The folder that has all lower folders in it, and the options with these
/// relative to that. `None` without lower folders, or when nothing but the root
/// has all of them in it.
pub(crate) fn split_lower(data: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let is_lower = |option: &&String| option.starts_with(LOWER);
    let lower: Vec<String> = data.iter().filter(is_lower).cloned().collect();
    let (base, lower) = shorten(&lower)?;
    let others = data.iter().filter(|option| !is_lower(option)).cloned();
    Some((base, others.chain(lower).collect()))
}

fn folders(option: &str) -> Vec<&Path> {
    if let Some(list) = option.strip_prefix(LOWER) {
        // A double colon starts a data-only layer; both halves are paths.
        return list.split(':').filter(|path| !path.is_empty()).map(Path::new).collect();
    }
    SINGLE.iter().find_map(|key| option.strip_prefix(key)).map(Path::new).into_iter().collect()
}

fn rewrite(option: &str, base: &Path) -> Option<String> {
    if let Some(list) = option.strip_prefix(LOWER) {
        let list: Vec<&str> =
            list.split(':').map(|path| relative(path, base)).collect::<Option<_>>()?;
        return Some(format!("{LOWER}{}", list.join(":")));
    }
    match SINGLE.iter().find_map(|key| Some((key, option.strip_prefix(key)?))) {
        Some((key, path)) => Some(format!("{key}{}", relative(path, base)?)),
        None => Some(option.to_owned()),
    }
}

fn relative<'a>(path: &'a str, base: &Path) -> Option<&'a str> {
    match path {
        "" => Some(path),
        path => Path::new(path).strip_prefix(base).ok()?.to_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn folders_become_relative() {
        let data = strings(&[
            "index=off",
            "workdir=/r/snapshots/3/work",
            "upperdir=/r/snapshots/3/fs",
            "lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs",
        ]);
        let (base, short) = shorten(&data).unwrap();
        assert_eq!(base, Path::new("/r/snapshots"));
        assert_eq!(short, ["index=off", "workdir=3/work", "upperdir=3/fs", "lowerdir=2/fs:1/fs"]);
    }

    #[test]
    fn lower_folders_alone_become_relative() {
        let data = strings(&["lowerdir=/r/2/fs:/r/1/fs", "upperdir=/u", "index=off"]);
        let (base, split) = split_lower(&data).unwrap();
        assert_eq!(base, Path::new("/r"));
        assert_eq!(split, ["upperdir=/u", "index=off", "lowerdir=2/fs:1/fs"]);
        assert_eq!(split_lower(&strings(&["upperdir=/u"])), None);
    }

    #[test]
    fn one_inside_the_other() {
        let (base, short) = shorten(&strings(&["lowerdir=/r/a/b:/r/a"])).unwrap();
        assert_eq!((base.as_path(), short[0].as_str()), (Path::new("/r"), "lowerdir=a/b:a"));
    }

    #[test]
    fn nothing_in_common_is_left_alone() {
        assert_eq!(shorten(&strings(&["lowerdir=/a/1:/b/2"])), None);
        assert_eq!(shorten(&strings(&["lowerdir=/r/a\\:b:/r/c"])), None);
        assert_eq!(shorten(&strings(&["index=off"])), None);
    }
}
