//! Who this daemon is: a name that stays, and where its process is found.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use shim_protocol::{Context, Error, ErrorKind, Result};

/// Folder below the root, where containerd keeps the name too.
const FOLDER: &str = "io.containerd.grpc.v1.introspection";

/// What tells this daemon from others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Made up once, and kept in the root.
    pub(crate) uuid: String,
    pub(crate) pid: u32,
    /// Inode of the daemon's pid namespace, in which its pids are meant.
    pub(crate) pid_namespace: u64,
}

impl Identity {
    /// Reads the name of the daemon from its root, or makes one up.
    ///
    /// # Errors
    /// `DataLoss` when the file holds something else, and those of the disk.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let namespace = "/proc/self/ns/pid";
        Ok(Self {
            uuid: uuid(&root.join(FOLDER))?,
            pid: std::process::id(),
            pid_namespace: fs::metadata(namespace).context("look at", namespace)?.ino(),
        })
    }
}

fn uuid(folder: &Path) -> Result<String> {
    let path = folder.join("uuid");
    match fs::read_to_string(&path) {
        // The original writes it in place. One that ended in the midst of that
        // has told nobody.
        Ok(text) if text.is_empty() => {}
        Ok(text) if is_uuid(&text) => return Ok(text),
        Ok(_) => {
            let what = format!("{} does not hold a UUID", path.display());
            return Err(Error::new(ErrorKind::DataLoss, what));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).context("read", path.display()),
    }
    let source = "/proc/sys/kernel/random/uuid";
    let uuid = fs::read_to_string(source).context("read", source)?.trim_end().to_owned();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .context("make", folder.display())?;
    // After a loss of power a file may have its length and not its bytes, and
    // no later daemon would start. So it gets its name when it is complete.
    let new = folder.join("uuid.new");
    let write = || {
        let mut file = fs::File::create(&new)?;
        file.write_all(uuid.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().context("write", path.display())?;
    Ok(uuid)
}

/// Hexadecimal digits in groups of 8, 4, 4, 4 and 12.
fn is_uuid(text: &str) -> bool {
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_stays() {
        let root = tempfile::tempdir().unwrap();
        let first = Identity::load(root.path()).unwrap();
        assert!(is_uuid(&first.uuid));
        assert_eq!(Identity::load(root.path()).unwrap().uuid, first.uuid);
    }

    #[test]
    fn a_file_that_was_not_finished_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(FOLDER)).unwrap();
        fs::write(root.path().join(FOLDER).join("uuid"), "").unwrap();
        assert!(is_uuid(&Identity::load(root.path()).unwrap().uuid));
    }

    #[test]
    fn garbage_is_reported() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(FOLDER)).unwrap();
        fs::write(root.path().join(FOLDER).join("uuid"), "hello").unwrap();
        assert_eq!(Identity::load(root.path()).unwrap_err().kind(), ErrorKind::DataLoss);
    }
}
