//! Layers, made entry by entry. The same calls make the same bytes.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// When everything was last changed: 2001-09-09.
pub const TIME: u64 = 1_000_000_000;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Compresses.
    ///
    /// # Errors
    /// No memory.
    pub fn compress(self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(3));
                encoder.write_all(bytes)?;
                encoder.finish()?
            }
            Self::Zstd => zstd::encode_all(bytes, 1)?,
        })
    }
}

/// The digest of some bytes, as it stands in a descriptor.
pub fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// What else an entry may have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra<'a> {
    /// Who owns it.
    pub owner: (u64, u64),
    /// Names and values of extended attributes.
    pub xattrs: &'a [(&'a str, &'a [u8])],
}

/// A tar file in the making.
pub struct Layer {
    tar: Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// One without entries.
    pub fn new() -> Self {
        Self { tar: Builder::new(Vec::new()) }
    }

    /// The tar file.
    ///
    /// # Errors
    /// No memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    /// A folder.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        self.entry(path, EntryType::Directory, mode, b"", Extra::default())
    }

    /// A file.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<&mut Self> {
        self.entry(path, EntryType::Regular, mode, data, Extra::default())
    }

    /// A symbolic link; `target` is taken as it is.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Another name for the file `target`.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn hard_link(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let mut header = header(EntryType::Link, 0o644, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// A device.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn device(
        &mut self,
        path: &str,
        kind: EntryType,
        numbers: (u32, u32),
    ) -> Result<&mut Self> {
        let mut header = header(kind, 0o666, 0);
        header.set_device_major(numbers.0)?;
        header.set_device_minor(numbers.1)?;
        self.tar.append_data(&mut header, path, std::io::empty())?;
        Ok(self)
    }

    /// Says that `path` of a layer below is gone.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn whiteout(&mut self, path: &str) -> Result<&mut Self> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { String::new() } else { format!("{parent}/") };
        self.file(&format!("{parent}.wh.{name}"), 0o644, b"")
    }

    /// Says that all that layers below have in the folder `path` is gone.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn opaque(&mut self, path: &str) -> Result<&mut Self> {
        self.file(&format!("{path}/.wh..wh..opq"), 0o644, b"")
    }

    /// An entry of any kind.
    ///
    /// # Errors
    /// Nothing that a test could help.
    pub fn entry(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        data: &[u8],
        extra: Extra<'_>,
    ) -> Result<&mut Self> {
        if !extra.xattrs.is_empty() {
            let names: Vec<_> =
                extra.xattrs.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
            let values = extra.xattrs.iter().map(|(_, value)| *value);
            self.tar.append_pax_extensions(names.iter().map(String::as_str).zip(values))?;
        }
        let mut header = header(kind, mode, data.len());
        header.set_uid(extra.owner.0);
        header.set_gid(extra.owner.1);
        self.tar.append_data(&mut header, path, data)?;
        Ok(self)
    }

    /// An entry whose name the library would refuse: for what is meant to be bad.
    ///
    /// # Errors
    /// The name is longer than a header has room for.
    pub fn raw(
        &mut self,
        path: &str,
        kind: EntryType,
        link: &str,
        data: &[u8],
    ) -> Result<&mut Self> {
        let mut header = header(kind, 0o644, data.len());
        let old = header.as_old_mut();
        ensure!(path.len() <= old.name.len() && link.len() <= old.linkname.len(), "too long");
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.tar.append(&header, data)?;
        Ok(self)
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(TIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size as u64);
    header
}

/// How GNU tar is to write.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// With sparse entries of the old kind, and long names in entries of their own.
    Gnu,
    /// With both in extended headers.
    Pax,
}

/// What GNU tar makes of the files in `folder`, with holes as holes.
///
/// # Errors
/// It fails.
pub fn gnu_tar(folder: &Path, format: Format) -> Result<Vec<u8>> {
    let format = match format {
        Format::Gnu => ["--format=gnu", "--format=gnu"],
        Format::Pax => ["--format=posix", "--pax-option=delete=atime,delete=ctime"],
    };
    let output = Command::new("tar")
        .args(["--create", "--file=-", "--sparse", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0", &format!("--mtime=@{TIME}")])
        .args(format)
        .arg("--directory")
        .arg(folder)
        .args(names(folder)?)
        .stdin(Stdio::null())
        .output()
        .context("tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(PathBuf::from(entry?.file_name()));
    }
    names.sort();
    Ok(names)
}
