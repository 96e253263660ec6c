//! Goes through two trees, and tells what the new one has more or less.
//!
//! The new tree is either whole, or the upper layer of an overlay, in which
//! case the old one is the layers below it. What is told is the same in both
//! cases, down to the order: by names, byte by byte, each folder before what
//! is in it.

use std::{
    os::fd::{AsFd, OwnedFd},
    vec,
};

use rustix::{
    fs::{Mode, fgetxattr, openat, openat2},
    io::Errno,
};

use super::meta::{At, Meta};
use crate::diff::apply::{FOLDER, STRAIGHT, names};

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// There is nothing any more.
    Gone,
    /// It is new, or another one.
    Other,
    /// It is as it was.
    Same,
}

/// The old tree: layers, the uppermost first; none for an empty tree.
pub(super) struct Old {
    pub(super) layers: Vec<OwnedFd>,
    /// Whether the layers are those of an overlay.
    pub(super) is_overlay: bool,
}

/// Takes what the walk tells.
pub(super) trait Visit {
    type Error: From<Errno>;

    /// Something of the new tree, or a name that is gone. `path` is the whole
    /// one; `at` is none for what is gone.
    fn visit(&mut self, path: &[u8], change: Change, at: Option<At<'_>>)
    -> Result<(), Self::Error>;

    /// All that is in a folder was told; `path` is that of the folder.
    fn leave(&mut self, path: &[u8]);
}

/// A folder of the new tree.
struct Level {
    folder: OwnedFd,
    /// Of its path.
    length: usize,
    /// Whether it shows all that there is, and nothing from below.
    is_whole: bool,
    items: vec::IntoIter<Item>,
}

struct Item {
    name: Vec<u8>,
    change: Change,
    /// None if it is gone.
    meta: Option<Meta>,
    /// The layers of the old tree that have a folder of that name which shows.
    layers: Vec<usize>,
}

/// Tells `visitor` how `new` differs from `old`. If `new` is the upper layer of
/// an overlay, `is_upper`, it may name the attribute of opaque folders.
pub(super) fn walk<V: Visit>(
    old: &Old,
    new: OwnedFd,
    opaque: Option<&str>,
    visitor: &mut V,
) -> Result<(), V::Error> {
    let walk = Walk { old, opaque };
    let mut path = Vec::new();
    let all = (0..old.layers.len()).collect();
    let mut levels = vec![walk.level(new, &path, all, opaque.is_none())?];
    while let Some(level) = levels.last_mut() {
        let Some(item) = level.items.next() else {
            visitor.leave(&path);
            levels.pop();
            path.truncate(levels.last().map_or(0, |level| level.length));
            continue;
        };
        path.truncate(level.length);
        if level.length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&item.name);
        let Item { name, change, meta, layers } = item;
        let at = meta.as_ref().map(|meta| At { folder: &level.folder, name: &name, meta });
        visitor.visit(&path, change, at)?;
        if meta.is_some_and(|meta| meta.is_folder()) {
            let folder = openat(&level.folder, &name, FOLDER, Mode::empty())?;
            let is_whole = level.is_whole || walk.is_opaque(&folder);
            levels.push(walk.level(folder, &path, layers, is_whole)?);
        } else {
            path.truncate(level.length);
        }
    }
    Ok(())
}

struct Walk<'a> {
    old: &'a Old,
    opaque: Option<&'a str>,
}

impl Walk<'_> {
    fn is_opaque(&self, folder: &OwnedFd) -> bool {
        let Some(attribute) = self.opaque else { return false };
        let mut value = [0; 2];
        matches!(fgetxattr(folder, attribute, &mut value), Ok(1) if value[0] == b'y')
    }

    /// Lists a folder, and compares what is in it with the old tree.
    fn level(
        &self,
        folder: OwnedFd,
        path: &[u8],
        layers: Vec<usize>,
        is_whole: bool,
    ) -> Result<Level, Errno> {
        // Open while this folder is listed only, or deep trees would need many.
        let mut olds = Vec::with_capacity(layers.len());
        for layer in layers {
            let root = &self.old.layers[layer];
            let open = match path.is_empty() {
                true => root.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?,
                false => openat2(root, path, FOLDER, Mode::empty(), STRAIGHT)?,
            };
            olds.push((layer, open));
        }
        let mut all = names(&folder)?;
        if is_whole {
            for (_, old) in &olds {
                all.extend(names(old)?);
            }
        }
        all.sort_unstable();
        all.dedup();
        let mut items = Vec::with_capacity(all.len());
        for name in all {
            items.extend(self.item(&folder, &olds, name)?);
        }
        Ok(Level { folder, length: path.len(), is_whole, items: items.into_iter() })
    }

    fn item(
        &self,
        folder: &OwnedFd,
        olds: &[(usize, OwnedFd)],
        name: Vec<u8>,
    ) -> Result<Option<Item>, Errno> {
        let (old, layers) = self.find(olds, &name)?;
        let new = Meta::of(folder, &name)?;
        let new = new.filter(|meta| self.opaque.is_none() || !meta.is_whiteout());
        let Some(meta) = new else {
            // What was never there cannot be gone.
            let gone = || Item { name, change: Change::Gone, meta: None, layers: Vec::new() };
            return Ok(old.map(|_| gone()));
        };
        let mut change = Change::Other;
        if let Some((position, old)) = old {
            let at = At { folder: &olds[position].1, name: &name, meta: &old };
            if (At { folder, name: &name, meta: &meta }).is_like(at)? {
                change = Change::Same;
            }
        }
        let layers = if meta.is_folder() { layers } else { Vec::new() };
        Ok(Some(Item { name, change, meta: Some(meta), layers }))
    }

    /// What the old tree has of that name, and where; if it is a folder, the
    /// layers that it comes from.
    #[allow(clippy::type_complexity)]
    fn find(
        &self,
        olds: &[(usize, OwnedFd)],
        name: &[u8],
    ) -> Result<(Option<(usize, Meta)>, Vec<usize>), Errno> {
        let (mut found, mut layers) = (None, Vec::new());
        for (position, (layer, old)) in olds.iter().enumerate() {
            let Some(meta) = Meta::of(old, name)? else { continue };
            let is_nothing = self.old.is_overlay && meta.is_whiteout();
            if is_nothing || (found.is_some() && !meta.is_folder()) {
                break;
            }
            found.get_or_insert((position, meta));
            if !meta.is_folder() {
                break;
            }
            layers.push(*layer);
            if self.old.is_overlay {
                let folder = openat(old, name, FOLDER, Mode::empty())?;
                if super::is_opaque(&folder) {
                    break;
                }
            }
        }
        Ok((found, layers))
    }
}
