//! Files that the kernel makes while they are read, as those of `/proc` and of
//! control groups.

use std::{fs::File, io, io::Read, path::Path};

/// More than most of them have, in bytes. They do not tell how long they are, and
/// to try that out costs a call for each try.
const USUAL_BYTES: usize = 4096;

/// Reads such a file.
///
/// # Errors
/// Those of the file system.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL_BYTES);
    // A file by itself would be asked for its length.
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Has a process begun to end? The kernel tells long before it can be reaped,
/// in the flags of `/proc/<pid>/stat` (proc(5)). One that is gone has.
pub(crate) fn is_exiting(pid: u32) -> bool {
    /// `include/linux/sched.h`.
    const PF_EXITING: u32 = 0x4;
    let Ok(stat) = read(format!("/proc/{pid}/stat")) else { return true };
    // The name in parentheses may hold anything, so count from its end.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let flags = fields.split(' ').nth(6).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_files_are_read_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, USUAL_BYTES - 1, USUAL_BYTES, 3 * USUAL_BYTES + 1] {
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
        assert!(read("/proc/self/stat").unwrap().ends_with('\n'));
    }

    #[test]
    fn a_process_that_was_not_reaped_is_exiting() {
        let _turn = crate::testing::turn();
        assert!(!is_exiting(std::process::id()));
        let mut child = std::process::Command::new("true")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe is closed on the way out, after the flag is set.
        std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        assert!(is_exiting(child.id()));
        child.wait().unwrap();
    }
}
