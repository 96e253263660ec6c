//! A root filesystem made of nothing but a static busybox.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};

const BUSYBOX: &str = "/bin/busybox";

/// Makes a root filesystem at `root`. Every applet is a link in `/bin`.
pub(crate) fn build(root: &Path) -> Result<()> {
    for folder in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).context("make rootfs folder")?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    // Not by us, for the reason that `Sandbox::executable` gives.
    let copied = Command::new("cp").arg(BUSYBOX).arg(root.join("bin")).status().context("cp")?;
    ensure!(copied.success(), "cannot copy {BUSYBOX}");
    let list = Command::new(BUSYBOX).arg("--list").output().context("list applets")?;
    ensure!(list.status.success(), "busybox --list failed");
    for applet in String::from_utf8(list.stdout)?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).context("link applet")?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n")?;
    Ok(())
}
