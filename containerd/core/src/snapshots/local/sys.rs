//! What btrfs is asked by `ioctl` (`linux/btrfs.h`).
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

const MAGIC: u8 = 0x94;

/// Bytes of a name in `struct btrfs_ioctl_vol_args`, with the NUL at its end.
const NAME_BYTES: usize = 4088;
/// Bytes of a name in `struct btrfs_ioctl_vol_args_v2`.
const NAME_V2_BYTES: usize = 4040;
/// Bytes of a path in `struct btrfs_ioctl_ino_lookup_args`.
const LOOKUP_BYTES: usize = 4080;

/// The inode of the root folder of each subvolume (`BTRFS_FIRST_FREE_OBJECTID`).
pub(super) const FIRST_INODE: u64 = 256;

/// Nobody writes to it (`BTRFS_SUBVOL_RDONLY`).
const READ_ONLY: u64 = 1 << 1;

#[repr(C)]
pub(super) struct VolumeArgs {
    fd: i64,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
pub(super) struct VolumeArgs2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_V2_BYTES],
}

#[repr(C)]
pub(super) struct LookupArgs {
    tree: u64,
    inode: u64,
    name: [u8; LOOKUP_BYTES],
}

nix::ioctl_write_ptr!(subvolume_create, MAGIC, 14, VolumeArgs);
nix::ioctl_write_ptr!(snapshot_destroy, MAGIC, 15, VolumeArgs);
nix::ioctl_readwrite!(inode_lookup, MAGIC, 18, LookupArgs);
nix::ioctl_write_ptr!(snapshot_create, MAGIC, 23, VolumeArgs2);
nix::ioctl_read!(subvolume_get_flags, MAGIC, 25, u64);
nix::ioctl_write_ptr!(subvolume_set_flags, MAGIC, 26, u64);

/// Makes an empty subvolume.
pub(super) fn create(folder: &File, name: &str) -> io::Result<()> {
    let args = VolumeArgs { fd: 0, name: field(name)? };
    // SAFETY: the descriptor is open, and the structure is the kernel's, whole
    // and with a NUL at the end of the name.
    unsafe { subvolume_create(folder.as_raw_fd(), &args) }?;
    Ok(())
}

/// Makes a snapshot of a subvolume.
pub(super) fn snapshot(
    folder: &File,
    name: &str,
    of: BorrowedFd<'_>,
    read_only: bool,
) -> io::Result<()> {
    let args = VolumeArgs2 {
        fd: of.as_raw_fd().into(),
        transaction: 0,
        flags: if read_only { READ_ONLY } else { 0 },
        unused: [0; 4],
        name: field(name)?,
    };
    // SAFETY: as above; the descriptor in the structure is open too.
    unsafe { snapshot_create(folder.as_raw_fd(), &args) }?;
    Ok(())
}

/// Removes a subvolume that has no others in it.
pub(super) fn destroy(folder: &File, name: &str) -> io::Result<()> {
    let args = VolumeArgs { fd: 0, name: field(name)? };
    // SAFETY: as in `create`.
    unsafe { snapshot_destroy(folder.as_raw_fd(), &args) }?;
    Ok(())
}

/// Lets nobody write to a subvolume, or everybody.
pub(super) fn set_read_only(subvolume: &File, read_only: bool) -> io::Result<()> {
    let mut flags = 0;
    // SAFETY: the descriptor is open, and the kernel writes one number.
    unsafe { subvolume_get_flags(subvolume.as_raw_fd(), &mut flags) }?;
    let wanted = if read_only { flags | READ_ONLY } else { flags & !READ_ONLY };
    if wanted != flags {
        // SAFETY: the descriptor is open, and the kernel reads one number.
        unsafe { subvolume_set_flags(subvolume.as_raw_fd(), &wanted) }?;
    }
    Ok(())
}

/// The number of a subvolume, by which it can be mounted.
pub(super) fn number(subvolume: &File) -> io::Result<u64> {
    let mut args = LookupArgs { tree: 0, inode: FIRST_INODE, name: [0; LOOKUP_BYTES] };
    // SAFETY: the descriptor is open, and the structure is the kernel's.
    unsafe { inode_lookup(subvolume.as_raw_fd(), &mut args) }?;
    Ok(args.tree)
}

/// A name with NUL bytes up to the end of its field.
fn field<const N: usize>(name: &str) -> io::Result<[u8; N]> {
    let mut field = [0; N];
    if name.len() >= N || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    field[..name.len()].copy_from_slice(name.as_bytes());
    Ok(field)
}
