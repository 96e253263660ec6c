//! The images that tests use.

use std::{fs, io::Write, path::Path, process::Command, sync::OnceLock};

use anyhow::{Context, Result, ensure};
use tar::EntryType;

use super::{Extra, Format, Image, Layer, gnu_tar};

const BUSYBOX: &str = "/bin/busybox";

/// A file capability as the kernel keeps it (`struct vfs_cap_data`, version 2):
/// effective and permitted cap_net_bind_service.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A name that fits into no field of a tar header.
pub(crate) const LONG: &str = "a-name-that-is-longer-than-any-field-for-names-in-the-headers-of-tar-\
                               files-so-that-it-must-stand-somewhere-else-whatever-the-format-is-\
                               and-then-some-more";

/// The layer in which all programs are.
pub(crate) fn programs() -> Result<Vec<u8>> {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(tar) = TAR.get() {
        return Ok(tar.clone());
    }
    let mut layer = Layer::new();
    for folder in ["bin", "dev", "etc", "proc", "root", "sys"] {
        layer.folder(folder, 0o755)?;
    }
    layer.folder("tmp", 0o1777)?;
    layer.file("bin/busybox", 0o755, &fs::read(BUSYBOX)?)?;
    let list = Command::new(BUSYBOX).arg("--list").output().context("list applets")?;
    ensure!(list.status.success(), "busybox --list failed");
    for applet in String::from_utf8(list.stdout)?.lines().filter(|name| *name != "busybox") {
        layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n";
    layer.file("etc/passwd", 0o644, users)?;
    layer.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nmore:x:2000:user\n")?;
    Ok(TAR.get_or_init(|| layer.finish().unwrap_or_default()).clone())
}

/// One layer with busybox; says hello.
///
/// # Errors
/// There is no busybox.
pub fn busybox() -> Result<Image> {
    Ok(Image::new(&["/bin/echo", "hello"]).layer(programs()?))
}

/// [`busybox`] and so many small layers on it; `/layers/<n>` is of the n-th, and
/// `/top` has the number of the highest.
///
/// # Errors
/// There is no busybox.
pub fn many_layers(count: usize) -> Result<Image> {
    let mut image = busybox()?;
    for number in 1..=count {
        let mut layer = Layer::new();
        layer.folder("layers", 0o755)?;
        layer.file(&format!("layers/{number}"), 0o644, format!("{number}\n").as_bytes())?;
        layer.file("top", 0o644, format!("{number}\n").as_bytes())?;
        image = image.layer(layer.finish()?);
    }
    Ok(image)
}

/// [`busybox`] and so many layers of so many bytes that do not compress.
///
/// # Errors
/// There is no busybox.
pub fn layered(count: usize, bytes: usize) -> Result<Image> {
    let mut image = busybox()?;
    for number in 1..=count {
        let mut layer = Layer::new();
        layer.file(&format!("data-{number}"), 0o644, &noise(number as u64, bytes))?;
        image = image.layer(layer.finish()?);
    }
    Ok(image)
}

/// Bytes that do not compress and that differ with `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Everything that a layer can hold, over two layers, of which the second takes
/// away and replaces things of the first. `/check` in it says `all is well`, or
/// what is not. What needs privileges to be seen (`/xattrs`, `/capable`,
/// `/devices`) is for the test to look at.
///
/// # Errors
/// There is no busybox.
pub fn everything() -> Result<Image> {
    Ok(Image::new(&["/check"])
        .layer(programs()?)
        .layer(lower()?)
        .layer(upper()?)
        .layer(sparse("sparse-pax", Format::Pax)?))
}

/// The same with what the original does not know: holes of the old kind, and a
/// folder that a layer takes away and makes anew.
///
/// # Errors
/// There is no busybox.
pub fn everything_and_more() -> Result<Image> {
    let mut layer = Layer::new();
    layer.whiteout("changes/comes-back")?;
    layer.folder("changes/comes-back", 0o755)?;
    layer.file("changes/comes-back/new", 0o644, b"new\n")?;
    Ok(everything()?.layer(layer.finish()?).layer(sparse("sparse-gnu", Format::Gnu)?))
}

fn lower() -> Result<Vec<u8>> {
    let mut layer = Layer::new();
    layer.folder("changes", 0o755)?;
    layer.file("changes/gone", 0o644, b"old\n")?;
    layer.file("changes/replaced", 0o644, b"old\n")?;
    layer.file("changes/becomes-folder", 0o644, b"old\n")?;
    layer.folder("changes/becomes-file", 0o755)?;
    layer.file("changes/becomes-file/old", 0o644, b"old\n")?;
    layer.folder("changes/becomes-link", 0o755)?;
    layer.file("changes/becomes-link/old", 0o644, b"old\n")?;
    layer.folder("changes/opaque", 0o755)?;
    layer.file("changes/opaque/old", 0o644, b"old\n")?;
    layer.folder("changes/gone-folder", 0o755)?;
    layer.file("changes/gone-folder/old", 0o644, b"old\n")?;
    layer.folder("changes/comes-back", 0o755)?;
    layer.file("changes/comes-back/old", 0o644, b"old\n")?;
    layer.folder("links", 0o755)?;
    layer.file("links/first", 0o644, b"linked\n")?;
    layer.hard_link("links/second", "links/first")?;
    layer.folder("links/below", 0o755)?;
    layer.hard_link("links/below/third", "links/second")?;
    layer.symlink("links/absolute", "/links/first")?;
    layer.symlink("links/relative", "below/../first")?;
    layer.symlink("links/dangling", "/nowhere/at/all")?;
    layer.folder("devices", 0o755)?;
    layer.device("devices/null", EntryType::Char, (1, 3))?;
    layer.device("devices/loop", EntryType::Block, (7, 200))?;
    layer.entry("devices/fifo", EntryType::Fifo, 0o600, b"", Extra::default())?;
    layer.finish()
}

fn upper() -> Result<Vec<u8>> {
    let mut layer = Layer::new();
    layer.file("check", 0o755, CHECK.as_bytes())?;
    layer.folder("changes", 0o755)?;
    layer.whiteout("changes/gone")?;
    layer.whiteout("changes/gone-folder")?;
    layer.file("changes/replaced", 0o600, b"new\n")?;
    layer.folder("changes/becomes-folder", 0o755)?;
    layer.file("changes/becomes-folder/new", 0o644, b"new\n")?;
    layer.file("changes/becomes-file", 0o644, b"new\n")?;
    layer.symlink("changes/becomes-link", "replaced")?;
    layer.folder("changes/opaque", 0o700)?;
    // Behind what it does not take away: the order does not matter.
    layer.file("changes/opaque/new", 0o644, b"new\n")?;
    layer.opaque("changes/opaque")?;
    // What `ln` in a Dockerfile makes: the file comes along.
    layer.file("links/first", 0o644, b"linked\n")?;
    layer.hard_link("links/fourth", "links/first")?;
    let owner = Extra { owner: (1000, 2000), ..Extra::default() };
    layer.folder("modes", 0o755)?;
    layer.entry("modes/owned", EntryType::Regular, 0o640, b"owned\n", owner)?;
    layer.file("modes/set-uid", 0o4755, b"set-uid\n")?;
    layer.file("modes/set-gid", 0o2755, b"set-gid\n")?;
    layer.folder("modes/sticky", 0o1777)?;
    layer.folder("modes/closed", 0o000)?;
    layer.file("modes/closed/inside", 0o000, b"closed\n")?;
    let xattrs = Extra {
        xattrs: &[("user.colour", b"blue"), ("user.bytes", b"\x00\x01\n=\xff")],
        ..Extra::default()
    };
    layer.entry("xattrs", EntryType::Regular, 0o644, b"", xattrs)?;
    let folder = Extra { xattrs: &[("user.kind", b"folder")], ..Extra::default() };
    layer.entry("xattrs-folder", EntryType::Directory, 0o755, b"", folder)?;
    let capable = Extra { xattrs: &[("security.capability", &CAPABILITY)], ..Extra::default() };
    layer.entry("capable", EntryType::Regular, 0o755, b"#!/bin/sh\n", capable)?;
    layer.folder("names", 0o755)?;
    layer.file(&format!("names/{LONG}"), 0o644, b"long\n")?;
    layer.file("names/with spaces, \u{e4}\u{f6}\u{fc} and \u{1f980}", 0o644, b"odd\n")?;
    layer.symlink("names/long-link", LONG)?;
    // No entry says that the folders above it are there.
    layer.file("implied/folders/file", 0o644, b"implied\n")?;
    layer.file("empty", 0o644, b"")?;
    layer.finish()
}

/// A file of 8 MiB that has data at its begin, in its middle and at its end.
fn sparse(name: &str, format: Format) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    let mut file = fs::File::create(&path)?;
    file.write_all(b"begin")?;
    write_at(&path, 4 << 20, b"middle")?;
    write_at(&path, (8 << 20) - 3, b"end")?;
    let long = folder.path().join("names");
    fs::create_dir(&long)?;
    fs::write(long.join(format!("{name}-{LONG}")), b"long\n")?;
    gnu_tar(folder.path(), format)
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    Ok(fs::File::options().write(true).open(path)?.write_all_at(bytes, offset)?)
}

/// What `/check` does: busybox has no `getfattr`, so attributes are not in it.
const CHECK: &str = r#"#!/bin/sh
bad() { echo "bad: $*"; exit 1; }
is() { [ "$(cat "$1")" = "$2" ] || bad "$1: $(cat "$1")"; }
like() { [ "$(stat -c "$2" "$1")" = "$3" ] || bad "$1: $(stat -c "$2" "$1")"; }
no() { [ ! -e "$1" ] && [ ! -L "$1" ] || bad "$1 is there"; }
[ -z "$(find / -xdev -name '.wh.*')" ] || bad "$(find / -xdev -name '.wh.*')"
no /changes/gone; no /changes/gone-folder; no /changes/opaque/old
is /changes/replaced new; is /changes/opaque/new new
if [ -e /changes/comes-back/new ]; then no /changes/comes-back/old; fi
is /changes/becomes-folder/new new; is /changes/becomes-file new
[ "$(readlink /changes/becomes-link)" = replaced ] || bad becomes-link
like /changes/replaced %a 600; like /changes/opaque %a 700
is /links/first linked; is /links/below/third linked; is /links/fourth linked
like /links/second %i "$(stat -c %i /links/below/third)"
like /links/fourth %i "$(stat -c %i /links/first)"
[ "$(readlink /links/absolute)" = /links/first ] || bad absolute
[ "$(readlink /links/relative)" = below/../first ] || bad relative
[ -L /links/dangling ] || bad dangling
like /devices/null %F:%t:%T 'character special file:1:3'
like /devices/loop %F:%t:%T 'block special file:7:c8'
like /devices/fifo %F:%a 'fifo:600'
like /modes/owned %u:%g:%a 1000:2000:640
like /modes/set-uid %a 4755; like /modes/set-gid %a 2755; like /modes/sticky %a 1777
like /modes/closed %a 0; like /modes/closed/inside %a 0
like /check %Y 1000000000; like /changes/opaque %Y 1000000000; like /devices/null %Y 1000000000
[ "$(ls /names | grep -v ^sparse- | wc -l)" = 3 ] || bad "$(ls /names)"
is /names/long-link long
is /implied/folders/file implied; like /implied/folders %F directory
like /empty %s 0
for file in /sparse-*; do
    like $file %s 8388608
    [ "$(head -c 5 $file)" = begin ] || bad $file begin
    [ "$(tail -c 3 $file)" = end ] || bad $file end
    [ "$(tail -c +4194305 $file | head -c 6)" = middle ] || bad $file middle
    [ "$(stat -c %b $file)" -lt 2048 ] || echo "not sparse: $file"
done
echo all is well
"#;
