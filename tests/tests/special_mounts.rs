//! Mounts that need more than a call of mount(2): with ids of their own, and
//! tmpfs that begin with what the image has. What a container sees is looked at
//! from outside, through its root in `/proc`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use serde_json::{Value, json};
use tests::{Bed, Process, Runtime, Spec, Stdio, code, eventually};
use tonic::Code;

// runc maps ids since 1.2, which Debian does not have.
tests::pairing!(
    ours,
    tests::Pairing::OURS,
    ids_are_mapped,
    trees_are_mapped,
    ids_are_mapped_in_a_user_namespace,
    ids_are_those_of_a_user_namespace_that_exists,
    mounts_inside_stay_inside,
    mistakes_are_named,
    tmpfs_with_the_content_of_the_image,
    tmpfs_follows_nothing_out_of_the_image,
    tmpfs_that_is_too_small
);
tests::pairing!(
    ours_with_runc,
    tests::Pairing::OURS_WITH_RUNC,
    tmpfs_with_the_content_of_the_image
);

/// Files of these owners, below the test's folder.
fn folder(path: &Path, files: &[(&str, u32, u32)]) -> Result<String> {
    fs::create_dir_all(path)?;
    for (name, user, group) in files {
        let file = path.join(name);
        fs::write(&file, name)?;
        chown(&file, Some(*user), Some(*group))?;
    }
    Ok(path.display().to_string())
}

const FILES: [(&str, u32, u32); 3] = [("root", 0, 0), ("user", 1000, 2000), ("other", 7, 7)];

fn mapping(pairs: &[(u32, u32)]) -> Value {
    let pair = |(inside, outside): &(u32, u32)| json!({ "containerID": inside, "hostID": outside, "size": 1 });
    pairs.iter().map(pair).collect()
}

/// A bind mount where root is 3000, and the user and its group are others.
fn mapped(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({
        "source": source, "destination": destination, "type": "bind", "options": options,
        "uidMappings": mapping(&[(0, 3000), (1000, 4000)]),
        "gidMappings": mapping(&[(0, 3000), (2000, 5000)]),
    })
}

fn filled(destination: &str, kind: &str) -> Value {
    let options = ["tmpcopyup"];
    json!({ "source": "tmpfs", "destination": destination, "type": kind, "options": options })
}

fn with_mounts(mut spec: Spec, mounts: &[Value]) -> Result<Spec> {
    spec.json["mounts"].as_array_mut().context("mounts")?.extend(mounts.iter().cloned());
    Ok(spec)
}

async fn start(bed: &Bed, id: &str, mounts: &[Value]) -> Result<Process> {
    let spec = with_mounts(bed.spec(id, "exec sleep 1000"), mounts)?;
    let mut task = bed.create_from(id, &spec).await?;
    task.start().await?;
    Ok(task)
}

/// A path of the container, as this process reaches it.
fn inside(task: &Process, path: &str) -> PathBuf {
    Path::new("/proc").join(task.pid.to_string()).join("root").join(path)
}

fn owner(task: &Process, path: &str) -> Result<(u32, u32)> {
    let found = fs::symlink_metadata(inside(task, path)).with_context(|| path.to_owned())?;
    Ok((found.uid(), found.gid()))
}

const NOBODY: (u32, u32) = (65534, 65534);

/// Owners on disk, in memory and of a single file are what the mappings say; a
/// mount below such a mount has its own; and read-only is read-only.
async fn ids_are_mapped(bed: &mut Bed) -> Result<()> {
    let disk = folder(&bed.sandbox.path("disk"), &FILES)?;
    let memory = bed.sandbox.state().with_file_name("memory");
    let memory = folder(&memory, &FILES)?;
    let below = folder(&bed.sandbox.path("below"), &FILES)?;
    fs::create_dir(bed.sandbox.path("disk/sub"))?;
    let plain =
        json!({"source": below, "destination": "/disk/sub", "type": "bind", "options": ["rbind"]});
    let mounts = [
        mapped(&disk, "/disk", &["rbind", "idmap"]),
        plain,
        // Mappings alone are enough.
        mapped(&memory, "/memory", &["bind", "ro"]),
        mapped(&format!("{disk}/user"), "/file", &["bind", "idmap", "ro"]),
        mapped(&disk, "/memory/../again", &["bind", "idmap"]),
    ];
    let script = "touch /disk/new; touch /memory/new; exec sleep 1000";
    // Who is 3000 here is root on the disk.
    let spec = bed.spec("mapped", script).set("/process/user", json!({"uid": 3000, "gid": 3000}));
    fs::set_permissions(bed.sandbox.path("disk"), Permissions::from_mode(0o777))?;
    let mut task = bed.create_from("mapped", &with_mounts(spec, &mounts)?).await?;
    task.start().await?;
    for place in ["disk", "memory", "again"] {
        assert_eq!(owner(&task, &format!("{place}/root"))?, (3000, 3000), "{place}");
        assert_eq!(owner(&task, &format!("{place}/user"))?, (4000, 5000), "{place}");
        assert_eq!(owner(&task, &format!("{place}/other"))?, NOBODY, "{place}");
    }
    assert_eq!(owner(&task, "file")?, (4000, 5000));
    assert_eq!(owner(&task, "disk/sub/user")?, (1000, 2000));
    let new = Path::new(&disk).join("new");
    eventually(async || fs::metadata(&new).context("nothing new")).await?;
    assert_eq!((fs::metadata(&new)?.uid(), owner(&task, "disk/new")?.0), (0, 3000));
    ensure!(!Path::new(&memory).join("new").exists(), "it was writable");
    // Nothing of it is to be seen outside, or elsewhere in the container.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", task.pid))?;
    ensure!(!mounts.contains("/proc/tty"), "{mounts}");
    ensure!(bed.sandbox.mounts_below(Path::new("/proc/tty")).is_empty(), "a mount outside");
    fs::remove_dir_all(memory)?;
    bed.destroy(&task).await
}

/// `ridmap` is for all mounts of a tree, `idmap` for the first.
async fn trees_are_mapped(bed: &mut Bed) -> Result<()> {
    let tree = folder(&bed.sandbox.path("tree"), &FILES)?;
    let sub = bed.sandbox.path("tree/sub");
    fs::create_dir(&sub)?;
    bed.sandbox.mount_tmpfs(&sub, 1 << 20)?;
    let (program, words) = bed.sandbox.command(Path::new("/bin/sh"));
    let script = format!("echo >{0}/user; chown 1000:2000 {0}/user", sub.display());
    let made = Command::new(program).args(words).args(["-c", &script]).status()?;
    ensure!(made.success(), "{script}");
    let mounts = [
        mapped(&tree, "/all", &["rbind", "ridmap"]),
        mapped(&tree, "/first", &["rbind", "idmap"]),
        mapped(&tree, "/locked", &["rbind", "ridmap", "rro"]),
        mapped(&tree, "/one", &["bind", "ridmap"]),
    ];
    let task = start(bed, "tree", &mounts).await?;
    for (path, expected) in [
        ("all/user", (4000, 5000)),
        ("all/sub/user", (4000, 5000)),
        ("first/user", (4000, 5000)),
        ("first/sub/user", (1000, 2000)),
        ("locked/sub/user", (4000, 5000)),
        ("one/user", (4000, 5000)),
    ] {
        assert_eq!(owner(&task, path)?, expected, "{path}");
    }
    ensure!(!inside(&task, "one/sub/user").exists(), "it has mounts below");
    ensure!(fs::write(inside(&task, "locked/sub/new"), "").is_err(), "it is writable");
    bed.destroy(&task).await
}

/// Without mappings, those of the container are taken.
async fn ids_are_mapped_in_a_user_namespace(bed: &mut Bed) -> Result<()> {
    open_to_users(bed)?;
    let disk = folder(&bed.sandbox.path("disk"), &FILES)?;
    for name in ["own", "other", "plain"] {
        fs::create_dir(bed.sandbox.rootfs().join("mnt").join(name))?;
    }
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let mut other = mapped(&disk, "/mnt/other", &["bind", "idmap"]);
    other["uidMappings"] = mapping(&[(0, 101_234), (1000, 102_345)]);
    let bind = |name: &str, options: &[&str]| {
        let destination = format!("/mnt/{name}");
        json!({ "source": disk, "destination": destination, "type": "bind", "options": options })
    };
    let spec = bed
        .spec("own", "mkdir /mnt/own/made; exec sleep 1000")
        .set("/linux/uidMappings", ids.clone());
    let mut spec = spec.set("/linux/gidMappings", ids);
    let namespaces = spec.json["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    namespaces.push(json!({"type": "user"}));
    let mounts = [bind("own", &["bind", "idmap"]), other, bind("plain", &["bind"])];
    let mut task = bed.create_from("own", &with_mounts(spec, &mounts)?).await?;
    task.start().await?;
    for (path, expected) in [
        ("own/root", (100_000, 100_000)),
        ("own/user", (101_000, 102_000)),
        ("other/root", (101_234, 3000)),
        ("other/user", (102_345, 5000)),
        ("plain/user", (1000, 2000)),
    ] {
        assert_eq!(owner(&task, &format!("mnt/{path}"))?, expected, "{path}");
    }
    let made = Path::new(&disk).join("made");
    eventually(async || fs::metadata(&made).context("nothing made")).await?;
    assert_eq!(fs::metadata(&made)?.uid(), 0);
    bed.destroy(&task).await
}

/// A user namespace for a container, with everything in reach of it.
fn open_to_users(bed: &Bed) -> Result<()> {
    fs::set_permissions(bed.sandbox.folder(), Permissions::from_mode(0o755))?;
    fs::create_dir(bed.sandbox.rootfs().join("mnt"))?;
    Ok(())
}

/// The same where the container joins one.
async fn ids_are_those_of_a_user_namespace_that_exists(bed: &mut Bed) -> Result<()> {
    open_to_users(bed)?;
    let disk = folder(&bed.sandbox.path("disk"), &FILES)?;
    let mut holder = Command::new("unshare")
        .args(["--user", "sh", "-c", "echo ready && exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut ready = [0; 6];
    std::io::Read::read_exact(holder.stdout.as_mut().context("stdout")?, &mut ready)?;
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{file}", holder.id()), "0 200000 65536")?;
    }
    let mut spec = bed.spec("joined", "exec sleep 1000");
    let namespaces = spec.json["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    let path = format!("/proc/{}/ns/user", holder.id());
    namespaces.push(json!({"type": "user", "path": path}));
    let mount = json!({"source": disk, "destination": "/mnt", "type": "bind",
                       "options": ["bind", "idmap"]});
    let mut task = bed.create_from("joined", &with_mounts(spec, &[mount])?).await?;
    task.start().await?;
    assert_eq!(owner(&task, "mnt/root")?, (200_000, 200_000));
    assert_eq!(owner(&task, "mnt/user")?, (201_000, 202_000));
    drop(holder.stdin.take());
    holder.wait()?;
    bed.destroy(&task).await
}

/// A source that shares its mounts does not share those of a user namespace.
async fn mounts_inside_stay_inside(bed: &mut Bed) -> Result<()> {
    open_to_users(bed)?;
    let source = bed.sandbox.path("source");
    fs::create_dir(&source)?;
    bed.sandbox.mount_tmpfs(&source, 1 << 20)?;
    let (program, words) = bed.sandbox.command(Path::new("/bin/sh"));
    let source = source.display().to_string();
    let script = format!("mount --make-shared {source} && mkdir {source}/sub {source}/late");
    let made = Command::new(program).args(&words).args(["-c", &script]).status()?;
    ensure!(made.success(), "{script}");
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let spec = bed.spec("shared", "exec sleep 1000").set("/linux/uidMappings", ids.clone());
    let spec = spec.set("/linux/gidMappings", ids);
    let mut spec = spec.set("/linux/rootfsPropagation", json!("rshared"));
    let namespaces = spec.json["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    namespaces.push(json!({"type": "user"}));
    let mount = json!({"source": source, "destination": "/mnt", "type": "bind",
                       "options": ["rbind", "ridmap", "rshared"]});
    let mut task = bed.create_from("shared", &with_mounts(spec, &[mount])?).await?;
    task.start().await?;
    let mount = |enter: &[&str], place: &str| -> Result<()> {
        let target = task.pid.to_string();
        let mounted = Command::new("nsenter")
            .args(["--target", &target])
            .args(enter)
            .args(["--", "/bin/mount", "-t", "tmpfs", "tmpfs", place])
            .status()?;
        ensure!(mounted.success(), "mount at {place}");
        Ok(())
    };
    mount(&["--user", "--mount"], "/mnt/sub")?;
    let outside = bed.sandbox.mounts_below(Path::new(&source));
    assert_eq!(outside, [Path::new(&source)]);
    // The other way they come, as with every bind mount.
    let late = Command::new(program)
        .args(&words)
        .args(["-c", &format!("mount -t tmpfs tmpfs {source}/late")])
        .status()?;
    ensure!(late.success(), "mount outside");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", task.pid))?;
    ensure!(mounts.contains(" /mnt/late "), "{mounts}");
    bed.destroy(&task).await
}

/// What cannot be is said by the mount and the reason.
async fn mistakes_are_named(bed: &mut Bed) -> Result<()> {
    let disk = folder(&bed.sandbox.path("disk"), &FILES)?;
    let bind =
        json!({"source": disk, "destination": "/m", "type": "bind", "options": ["bind", "idmap"]});
    let own = json!({"source": "x", "destination": "/m", "type": "tmpfs", "options": ["idmap"]});
    let with = |key: &str, value: Value| {
        let mut mount = mapped(&disk, "/m", &["bind", "idmap"]);
        mount[key] = value;
        mount
    };
    let wrong = Code::InvalidArgument;
    for (mounts, kind, words) in [
        (vec![bind], wrong, "idmap without mappings"),
        (vec![with("uidMappings", json!([]))], wrong, "go together"),
        (vec![with("uidMappings", mapping(&[(0, 1), (0, 2)]))], wrong, "uidMappings"),
        (vec![own], wrong, "bind mounts"),
        (vec![with("source", json!("/no/such"))], wrong, "/no/such"),
        (vec![with("source", json!("/sys"))], Code::FailedPrecondition, "ids cannot be mapped"),
        (vec![filled("/m", "mqueue")], wrong, "tmpcopyup is for tmpfs"),
    ] {
        let spec = with_mounts(bed.spec("wrong", "true"), &mounts)?;
        let container = bed.container("wrong", &spec).await?;
        let (found, message) = code(container.task(false, Vec::new(), Stdio::null()).await)?;
        assert_eq!(found, kind, "{message}");
        ensure!(message.contains("mounts[") && message.contains(words), "{words}: {message}");
        container.delete().await?;
    }
    Ok(())
}

/// Owners, modes, links, special files; and the tmpfs is the container's own.
async fn tmpfs_with_the_content_of_the_image(bed: &mut Bed) -> Result<()> {
    let seed = bed.sandbox.rootfs().join("seed");
    folder(&seed.join("deep/er"), &[("leaf", 5, 6)])?;
    folder(&seed, &[("set", 1000, 2000), ("plain", 0, 0)])?;
    fs::set_permissions(seed.join("set"), Permissions::from_mode(0o4751))?;
    fs::set_permissions(seed.join("deep"), Permissions::from_mode(0o2750))?;
    fs::set_permissions(&seed, Permissions::from_mode(0o751))?;
    chown(seed.join("deep"), Some(8), Some(9))?;
    fs::set_permissions(seed.join("deep"), Permissions::from_mode(0o2750))?;
    symlink("/etc/passwd", seed.join("link"))?;
    lchown(seed.join("link"), Some(3), Some(4))?;
    fs::hard_link(seed.join("set"), seed.join("deep/second"))?;
    let is_runc = bed.daemon.pairing().runtime == Runtime::Runc;
    if !is_runc {
        // runc copies none.
        mknodat(CWD, seed.join("queue"), FileType::Fifo, Mode::from_raw_mode(0o622), 0)?;
    }
    setxattr(seed.join("set"), c"user.colour", b"blue", XattrFlags::empty())?;
    let mounts = [
        json!({"source": "tmpfs", "destination": "/seed", "type": "tmpfs",
               "options": ["nosuid", "nodev", "tmpcopyup", "size=4m"]}),
        json!({"source": bed.sandbox.path("rootfs/etc"), "destination": "/seed/deep/below",
               "type": "bind", "options": ["bind", "ro"]}),
        json!({"source": "tmpfs", "destination": "/none", "type": "tmpfs",
               "options": ["tmpcopyup", "mode=700"]}),
    ];
    let task = start(bed, "seeded", &mounts).await?;
    let status = |path: &str| {
        let status = fs::symlink_metadata(inside(&task, path)).with_context(|| path.to_owned())?;
        anyhow::Ok((status.mode() & 0o7777, status.uid(), status.gid()))
    };
    for (path, expected) in [
        ("seed", (0o751, 0, 0)),
        ("seed/set", (0o4751, 1000, 2000)),
        ("seed/plain", (0o644, 0, 0)),
        ("seed/deep", (0o2750, 8, 9)),
        ("seed/deep/er/leaf", (0o644, 5, 6)),
        ("seed/link", (0o777, 3, 4)),
        ("none", (0o700, 0, 0)),
    ] {
        // runc's own copy forgets such bits where the owner comes last.
        let found = status(path)?;
        let same = found == expected
            || is_runc
                && (found.0 | 0o6000, found.1, found.2)
                    == (expected.0 | 0o6000, expected.1, expected.2);
        ensure!(same, "{path}: {found:?} is not {expected:?}");
    }
    assert_eq!(fs::read_to_string(inside(&task, "seed/deep/second"))?, "set");
    assert_eq!(fs::read_link(inside(&task, "seed/link"))?, Path::new("/etc/passwd"));
    ensure!(inside(&task, "seed/deep/below/passwd").exists(), "no mount below");
    if !is_runc {
        let number = |path: &str| fs::metadata(inside(&task, path)).map(|status| status.ino());
        assert_eq!(number("seed/set")?, number("seed/deep/second")?);
        ensure!(fs::metadata(inside(&task, "seed/queue"))?.file_type().is_fifo(), "no FIFO");
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(inside(&task, "seed/set"), c"user.colour", &mut value)?;
        assert_eq!(&value[..length], b"blue");
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", task.pid))?;
    let line = mounts.lines().find(|line| line.contains(" /seed ")).context("no mount")?;
    for word in ["nosuid", "nodev", "tmpfs", "size=4096k"] {
        ensure!(line.contains(word), "{line}");
    }
    fs::write(inside(&task, "seed/plain"), "changed")?;
    assert_eq!(fs::read_to_string(seed.join("plain"))?, "plain");
    bed.destroy(&task).await
}

/// An image may have links on the way, to whatever the host has there.
async fn tmpfs_follows_nothing_out_of_the_image(bed: &mut Bed) -> Result<()> {
    let secret = folder(&bed.sandbox.path("secret"), &[("key", 0, 0)])?;
    let rootfs = bed.sandbox.rootfs();
    symlink(&secret, rootfs.join("absolute"))?;
    symlink(format!("../..{secret}"), rootfs.join("upwards"))?;
    folder(&rootfs.join("real"), &[("file", 0, 0)])?;
    symlink("/real", rootfs.join("within"))?;
    symlink(&secret, rootfs.join("real/link"))?;
    // There may be such a folder inside, which then is the one.
    folder(&rootfs.join(secret.trim_start_matches('/')), &[("own", 0, 0)])?;
    let mounts =
        [filled("/absolute", "tmpfs"), filled("/upwards", "tmpfs"), filled("/within", "tmpfs")];
    let container = with_mounts(bed.spec("hostile", "exec sleep 1000"), &mounts)?;
    let mut task = bed.create_from("hostile", &container).await?;
    task.start().await?;
    let in_container = secret.trim_start_matches('/');
    ensure!(!inside(&task, in_container).join("key").exists(), "the host's file is inside");
    assert_eq!(fs::read_to_string(inside(&task, in_container).join("own"))?, "own");
    assert_eq!(fs::read_to_string(inside(&task, "real/file"))?, "file");
    assert_eq!(fs::read_link(inside(&task, "real/link"))?, Path::new(&secret));
    bed.destroy(&task).await
}

/// What does not fit is an error, and nothing is left.
async fn tmpfs_that_is_too_small(bed: &mut Bed) -> Result<()> {
    let seed = bed.sandbox.rootfs().join("seed");
    fs::create_dir(&seed)?;
    fs::write(seed.join("large"), vec![7; 1 << 20])?;
    let tmpfs = json!({"source": "tmpfs", "destination": "/seed", "type": "tmpfs",
                       "options": ["tmpcopyup", "size=64k"]});
    let spec = with_mounts(bed.spec("small", "true"), &[tmpfs])?;
    let container = bed.container("small", &spec).await?;
    let (_, message) = code(container.task(false, Vec::new(), Stdio::null()).await)?;
    ensure!(message.contains("mounts[/seed]") && message.contains("large"), "{message}");
    Ok(container.delete().await?)
}
