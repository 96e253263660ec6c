//! What must not happen, whatever an archive says.

use std::os::unix::fs::symlink;

use super::{archive::Head, *};

fn refused(archive: &Archive) -> String {
    let bed = Bed::new();
    let error = bed.merge(archive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert_eq!(names_below(&bed.path("outside")), [""; 0]);
    let other = Bed::new().stack(archive).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::InvalidArgument, "{other:?}");
    error.report().to_string()
}

/// Unpacks in both ways; answers what is there then, of the first.
fn contained(archive: &Archive) -> Vec<String> {
    let (bed, other) = (Bed::new(), Bed::new());
    bed.merge(archive).unwrap();
    other.stack(archive).unwrap();
    for bed in [&bed, &other] {
        let all = names_below(bed.0.path());
        let out = all.iter().filter(|name| !name.starts_with("upper/"));
        assert_eq!(out.collect::<Vec<_>>(), ["lower/", "lowest/", "outside/"]);
    }
    assert_eq!(bed.names(), other.names());
    bed.names()
}

#[test]
fn names_lead_nowhere_else() {
    let archive = Archive::new()
        .file("../outside/a", "")
        .file("/b", "")
        .file("x/../../../c", "")
        .folder("../../")
        .folder("..");
    assert_eq!(contained(&archive), ["b", "c", "outside/", "outside/a"]);
}

#[test]
fn links_lead_nowhere_else() {
    let archive = Archive::new()
        .symlink("absolute", "/outside")
        .file("absolute/a", "")
        .symlink("up", "../../../../outside")
        .file("up/b", "")
        .symlink("one", "two")
        .symlink("two", "deep/../../outside")
        .file("one/c", "")
        .symlink("p", "/proc/self/root/outside")
        .file("p/d", "");
    let names = contained(&archive);
    for name in ["outside/a", "outside/b", "outside/c", "proc/self/root/outside/d"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
}

#[test]
fn links_of_before_lead_nowhere_else() {
    let bed = Bed::new();
    for (name, target) in [("link", bed.path("outside")), ("up", "../outside".into())] {
        symlink(&target, bed.path("upper").join(name)).unwrap();
        symlink(&target, bed.path("lower").join(format!("{name}-below"))).unwrap();
    }
    let archive = Archive::new()
        .file("link/a", "")
        .file("up/b", "")
        .file("up-below/c", "")
        .file("link-below/d", "")
        .file("up/.wh.x", "")
        .file("link-below/.wh..wh..opq", "");
    bed.stack(&archive).unwrap();
    assert_eq!(names_below(&bed.path("outside")), [""; 0]);
}

#[test]
fn a_file_is_never_written_through_a_link() {
    let archive = Archive::new()
        .symlink("f", "../outside/f")
        .file("f", "text")
        .symlink("d", "../outside")
        .folder("d");
    assert_eq!(contained(&archive), ["d/", "f"]);
}

#[test]
fn hard_links_lead_nowhere_else() {
    let bed = Bed::new();
    fs::write(bed.path("outside/secret"), "").unwrap();
    let archive = Archive::new().symlink("l", "../outside");
    for target in ["../outside/secret", "/outside/secret", "l/secret", "l/../outside/secret"] {
        let archive = archive.clone().hard_link("h", target);
        assert_eq!(kind(bed.merge(&archive)), Some(ErrorKind::InvalidArgument), "{target}");
        assert_eq!(kind(bed.stack(&archive)), Some(ErrorKind::InvalidArgument), "{target}");
    }
    for target in ["", "/", "..", "missing", "l/missing/x"] {
        let text = refused(&Archive::new().folder("d").hard_link("h", target));
        assert!(text.contains("\"h\""), "{text}");
    }
    let text = refused(&Archive::new().folder("d").hard_link("h", "d"));
    assert!(text.contains("a folder"), "{text}");
    // It leads to the link itself, not through it.
    let archive = Archive::new().symlink("l", "../outside/x").hard_link("h", "l");
    assert_eq!(contained(&archive), ["h", "l"]);
}

#[test]
fn nothing_is_in_what_is_no_folder() {
    for archive in [
        Archive::new().file("f", "").file("f/x", ""),
        Archive::new().entry(&Head { device: (1, 3), ..Head::new(b'3', "f") }, b"").file("f/x", ""),
        Archive::new().entry(&Head::new(b'6', "f"), b"").file("f/x", ""),
        Archive::new().symlink("f", "f").file("f/x", ""),
        Archive::new().file("g", "").symlink("f", "g").file("f/x", ""),
    ] {
        let text = refused(&archive);
        assert!(text.contains("\"f/x\""), "{text}");
    }
    // A device named like a folder is a device all the same.
    let null = Head { device: (1, 3), ..Head::new(b'3', "n/") };
    assert_eq!(contained(&Archive::new().entry(&null, b"")), ["n"]);
}

#[test]
fn whiteouts_hide_nothing_but_names() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."] {
        refused(&Archive::new().folder("a").file(name, ""));
    }
    let bed = Bed::new();
    fs::write(bed.path("outside/f"), "").unwrap();
    let archive = Archive::new().symlink("l", "../outside").file("l/.wh.f", "").file(".wh.l", "");
    bed.merge(&archive).unwrap();
    assert!(bed.path("outside/f").exists());
}

#[test]
fn headers_that_make_no_sense() {
    let with = |change: fn(&mut [u8; 512])| {
        let mut block = Head { size: 3, ..Head::new(b'0', "f") }.block();
        change(&mut block);
        archive::sum(&mut block);
        Archive::new().raw(&block).raw(&[b'x'; 512])
    };
    refused(&with(|block| block[124..136].copy_from_slice(&[0xff; 12])));
    refused(&with(|block| block[124..136].copy_from_slice(b"999999999999")));
    refused(&with(|block| block[108..116].copy_from_slice(&[0xff; 8])));
    refused(&with(|block| block[108..116].copy_from_slice(&[0x80, 1, 0, 0, 0, 0, 0, 0])));
    refused(&with(|block| block[100..108].copy_from_slice(b"rwxrwxrw")));
    refused(&with(|block| block[156] = b'Z'));
    refused(&with(|block| block[156] = b'V'));
    let mut wrong = Head::new(b'0', "f").block();
    wrong[0] = b'g';
    refused(&Archive::new().raw(&wrong));
    refused(&Archive::new().raw(&[b'x'; 512]));
    refused(&Archive::new().raw(&[0; 512]).raw(&[b'x'; 512]));
    refused(&Archive::new().entry(&Head { device: (1, 3), ..Head::new(b'3', "") }, b"").pax(&[]));
    let mut device = Head::new(b'3', "d").block();
    device[329..337].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]);
    archive::sum(&mut device);
    assert!(refused(&Archive::new().raw(&device)).contains("\"d\""));
}

#[test]
fn extended_headers_that_make_no_sense() {
    let raw = |records: &[u8]| {
        let size = records.len() as u64;
        let head = Head { size, ..Head::new(b'x', "pax") };
        Archive::new().entry(&head, records).file("f", "")
    };
    for records in [
        &b"x"[..],
        b"5 a=b\n",
        b"0 a=b\n",
        b"3 =\n",
        b"99 a=b\n",
        b"6 a=bc",
        b"-6 a=b\n",
        b"7 ab=\0\n7 =ab\n",
        b"99999999999999999999999 a=b\n",
        b" a=b\n",
    ] {
        refused(&raw(records));
    }
    for (key, value) in [
        ("size", &b"-1"[..]),
        ("size", b"1e3"),
        ("size", b"99999999999999999999"),
        ("uid", b"4294967295"),
        ("uid", b"-1"),
        ("gid", b"4294967296"),
        ("mtime", b"now"),
        ("mtime", b"1.x"),
        ("path", b"a\0b"),
        ("linkpath", b"\0"),
        ("SCHILY.xattr.", b"x"),
        ("GNU.sparse.map", b"1,2,3"),
        ("GNU.sparse.offset", b"1"),
        ("GNU.sparse.major", b"2"),
    ] {
        if key == "GNU.sparse.offset" {
            let archive = Archive::new().pax(&[(key, value), (key, value)]).file("f", "");
            refused(&archive);
        } else {
            refused(&Archive::new().pax(&[(key, value), ("GNU.sparse.size", b"5")]).file("f", "x"));
        }
    }
    // Nothing behind it.
    refused(&Archive::new().pax(&[("path", b"x")]));
}

#[test]
fn headers_do_not_fill_the_memory() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let head = Head { size: (1 << 20) + 1, ..Head::new(flag, "long") };
        let text = refused(&Archive::new().raw(&head.block()));
        assert!(text.contains("1048576"), "{text}");
    }
    let long = "x/".repeat(2100);
    refused(&Archive::new().pax(&[("path", long.as_bytes())]).file("f", ""));
    refused(
        &Archive::new()
            .file(["y"; 100].concat(), "")
            .pax(&[("path", "z".repeat(256).as_bytes())])
            .file("f", ""),
    );
    // Through links, a path may be longer than what it is called.
    let part = "d/".repeat(400);
    let mut archive = Archive::new().pax(&[("linkpath", part.as_bytes())]).symlink("l1", "");
    for step in 1..8 {
        let target = format!("l{step}/{part}");
        archive =
            archive.pax(&[("linkpath", target.as_bytes())]).symlink(format!("l{}", step + 1), "");
    }
    refused(&archive.file("l8/f", ""));
}

#[test]
fn what_ends_too_early() {
    let whole = Archive::new().file("a", &"x".repeat(2000)).pax(&[("path", b"b")]).file("f", "y");
    let bytes = whole.bytes();
    for end in [100, 600, 1500, 2600, 3700] {
        let bed = Bed::new();
        let cut = bytes[..end].to_owned();
        let outcome = unpack_bytes(cut, &bed.path("upper"), None);
        assert_eq!(kind(outcome), Some(ErrorKind::DataLoss), "{end}");
    }
    // Without an end it is whole all the same (as for Go).
    contained(&Archive { is_open: true, ..whole });
}

/// umoci writes such layers.
#[test]
fn behind_the_last_data_nothing_need_follow() {
    let bytes = Archive::new().file("a", &"x".repeat(2000)).bytes();
    for end in [2512, 2513, 2559, 2560, 3072] {
        let bed = Bed::new();
        unpack_bytes(bytes[..end].to_owned(), &bed.path("upper"), None).unwrap();
        assert_eq!(bed.text("a").len(), 2000, "{end}");
    }
}

#[test]
fn little_may_follow_the_end() {
    let mut bytes = Archive::new().file("f", "x").bytes();
    let length = bytes.len();
    bytes.extend(b"anything");
    unpack_bytes(bytes.clone(), &Bed::new().path("upper"), None).unwrap();
    bytes.resize(length + (16 << 20), 0);
    unpack_bytes(bytes.clone(), &Bed::new().path("upper"), None).unwrap();
    bytes.push(0);
    let outcome = unpack_bytes(bytes, &Bed::new().path("upper"), None);
    assert_eq!(kind(outcome), Some(ErrorKind::InvalidArgument));
}

#[test]
fn sparse_files_that_make_no_sense() {
    let map = |map: &str, size: &str, data: &str| {
        let records = [("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", size.as_bytes())];
        Archive::new().pax(&records).file("f", data)
    };
    Bed::new().merge(&map("0,1,5,1", "10", "xy")).unwrap();
    for (list, size, data) in [
        ("0,1,0,1", "10", "xy"),
        ("5,1,0,1", "10", "xy"),
        ("0,1,9,2", "10", "xyz"),
        ("0,1", "10", "xy"),
        ("0,3", "10", "xy"),
        ("18446744073709551615,2", "10", "xy"),
        ("0,x", "10", "xy"),
    ] {
        refused(&map(list, size, data));
    }
    let one = |data: &str| {
        let records = [
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"10"),
        ];
        Archive::new().pax(&records).file("f", data)
    };
    for data in ["", "x", "99999999\n", "1\n0\n", "999999999999999999999\n", "2\n0\n1\n"] {
        refused(&one(&format!("{data:<512}")));
        refused(&one(data));
    }
}

#[test]
fn a_huge_file_with_nothing_in_it_takes_no_room() {
    let records = [("GNU.sparse.map", &b""[..]), ("GNU.sparse.size", b"1099511627776")];
    let bed = Bed::new();
    bed.merge(&Archive::new().pax(&records).file("f", "")).unwrap();
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(bed.path("upper/f")).unwrap();
    assert_eq!((meta.len(), meta.blocks()), (1 << 40, 0));
}
