//! Archives, good and bad.

use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};

/// The same, compressed: in two parts, as some compressors do.
///
/// # Errors
/// None that should be.
pub fn compress(bytes: &[u8], kind: &str) -> Result<Vec<u8>> {
    Ok(match kind {
        "gzip" => {
            let (one, other) = bytes.split_at(bytes.len() / 2);
            let mut all = Vec::new();
            for part in [one, other] {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(&mut all, level);
                encoder.write_all(part)?;
                encoder.finish()?;
            }
            all
        }
        "zstd" => {
            let (one, other) = bytes.split_at(bytes.len() / 2);
            [zstd::encode_all(one, 1)?, zstd::encode_all(other, 1)?].concat()
        }
        _ => bytes.to_owned(),
    })
}

/// What a gzip file holds.
///
/// # Errors
/// It is none.
pub fn decompress(gzip: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(gzip).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Copies a file or what is in a folder, with all that belongs to it.
///
/// # Errors
/// Those of `cp`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-aT").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp");
    Ok(())
}

/// An archive of a folder by GNU tar.
///
/// # Errors
/// Those of `tar`.
pub fn tar(root: &Path) -> Result<Vec<u8>> {
    let arguments = ["--format=pax", "--sort=name", "--xattrs", "--xattrs-include=*", "-C"];
    let output = Command::new("tar").args(arguments).arg(root).args(["-cf", "-", "."]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Names in an archive.
///
/// # Errors
/// It is none.
pub fn names(archive: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        names.push(String::from_utf8_lossy(&entry?.path_bytes()).into_owned());
    }
    Ok(names)
}

struct Builder(tar::Builder<Vec<u8>>);

impl Builder {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn put(&mut self, kind: tar::EntryType, name: &str, link: &str, text: &str) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        // Without the crate's checks.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o755);
        header.set_size(text.len() as u64);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_device_major(1)?;
        header.set_device_minor(3)?;
        header.set_cksum();
        Ok(self.0.append(&header, text.as_bytes())?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

/// A layer that hides what is below.
///
/// # Errors
/// None that should be.
pub fn whiteouts() -> Result<Vec<u8>> {
    use tar::EntryType::{Directory, Regular};
    let mut layer = Builder::new();
    layer.put(Regular, "a/b/new", "", "new")?;
    layer.put(Regular, ".wh.n3", "", "")?;
    layer.put(Directory, "n5", "", "")?;
    layer.put(Regular, "n5/.wh.old", "", "")?;
    layer.put(Directory, "opaque", "", "")?;
    layer.put(Regular, "opaque/.wh..wh..opq", "", "")?;
    layer.put(Regular, "opaque/new", "", "new")?;
    layer.finish()
}

/// Layers that want to write to `outside`.
///
/// # Errors
/// None that should be.
pub fn hostile(outside: &str) -> Result<Vec<Vec<u8>>> {
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    let up = format!("../../../../../../{outside}");
    let mut all = Vec::new();
    let mut layer = |entries: &[(tar::EntryType, &str, &str)]| -> Result<()> {
        let mut builder = Builder::new();
        for (kind, name, link) in entries {
            builder.put(*kind, name, link, if kind.is_file() { "evil" } else { "" })?;
        }
        all.push(builder.finish()?);
        Ok(())
    };
    layer(&[(Regular, &format!("{outside}/a"), "")])?;
    layer(&[(Regular, &format!("{up}/a"), "")])?;
    layer(&[(Symlink, "l", outside), (Regular, "l/a", "")])?;
    layer(&[(Symlink, "l", &up), (Regular, "l/a", "")])?;
    layer(&[(Symlink, "l", "m"), (Symlink, "m", outside), (Regular, "l/a", "")])?;
    layer(&[(Symlink, "l", &format!("{outside}/kept")), (Regular, "l", "")])?;
    layer(&[(Link, "h", &format!("{outside}/kept")), (Regular, "h", "")])?;
    layer(&[(Symlink, "l", outside), (Link, "h", "l/kept"), (Regular, "h", "")])?;
    layer(&[(Symlink, "l", outside), (Regular, "l/.wh.kept", "")])?;
    layer(&[(Symlink, "l", outside), (Regular, "l/.wh..wh..opq", "")])?;
    layer(&[(Symlink, "l", outside), (Directory, "l", "")])?;
    layer(&[(Regular, ".wh..", ""), (Regular, ".wh...", "")])?;
    layer(&[(Char, "d/", ""), (Regular, "d/a", "")])?;
    layer(&[(Regular, &format!(".wh.{up}/kept"), "")])?;
    Ok(all)
}
