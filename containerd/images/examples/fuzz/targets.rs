//! What is fuzzed: a parser each, inputs to begin with, and what must hold of
//! all that it takes.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use containerd_images::{
    Digest, Platform, Reference,
    manifest::{Config, Index, Manifest, chain_ids, children},
    media_type,
    platform::Matcher,
    registry::{auth::challenge, check_hosts_toml},
};
use shim_protocol::ErrorKind;

/// One parser.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) seeds: &'static [&'static str],
    /// Panics when a rule is broken; tells the shape of what was taken.
    pub(crate) check: fn(&[u8]) -> Option<u64>,
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(crate) const TARGETS: [Target; 7] = [
    Target {
        name: "reference",
        seeds: &[
            "docker.io/library/redis:7",
            "localhost:5000/a/b_c--d.e__f",
            "[::1]:5000/a:B-1.0",
            "redis",
            "h.io/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "h.io/a:b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ],
        check: reference,
    },
    Target {
        name: "platform",
        seeds: &[
            "linux/amd64",
            "linux/arm64/v8.5",
            "linux/arm/v7",
            "aarch64",
            "windows(10.0.17763.1+win32k+x)/amd64",
            "macos/i386",
            "linux/amd64/v3",
            "linux/arm64/v9.2",
        ],
        check: platform,
    },
    Target {
        name: "manifest",
        seeds: &[
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"t","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"urls":["https://a/b"],"annotations":{"a":"b"},"data":"e30="}],"subject":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1},"annotations":{"c":"\u00e4\n"}}"#,
            r#"{"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2},"layers":null,"manifests":null,"fsLayers":[]}"#,
        ],
        check: manifest,
    },
    Target {
        name: "index",
        seeds: &[
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5,"platform":{"architecture":"arm","os":"linux","os.version":"1","os.features":["f"],"variant":"v7"},"artifactType":"t"}],"annotations":{"a":"b"}}"#,
            r#"{"manifests":null,"config":{},"layers":[]}"#,
        ],
        check: index,
    },
    Target {
        name: "config",
        seeds: &[
            r#"{"architecture":"arm","variant":"v7","os":"linux","os.version":"1","os.features":["f"],"created":"2024-01-01T00:00:00Z","config":{"User":"1:2","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"l":"m"},"StopSignal":"SIGQUIT"},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created":"x","created_by":"x","author":"a","comment":"c","empty_layer":true}]}"#,
            r#"{"config":{"Env":null,"Volumes":null},"rootfs":null,"history":null}"#,
        ],
        check: config,
    },
    Target {
        name: "hosts",
        seeds: &[
            "server = \"https://h.io\"\n[host.\"http://z:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"https://m.io/v2/proxy\"]\noverride_path = true\n[host.\"https://m.io/v2/proxy\".header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]\n[host.\"a.io/sub/\"]\ndial_timeout = \"1m1.5s\"\n",
            "ca = \"ca.crt\"\nclient = [[\"c.cert\", \"/k.key\"], \"one.pem\"]\nskip_verify = true\n[host.\"a\"]\nca = [\"1\", \"/2\"]\nclient = \"c\"\nskip_verify = false\n[header]\na = 'b'\n",
            "[[host]]\na = { b = 1, c = [1979-05-27, 0x1f, 1e9, inf] }\n",
        ],
        check: hosts,
    },
    Target {
        name: "challenge",
        seeds: &[
            r#"Bearer realm="https://auth.io/token",service="h.io",scope="repository:a/b:pull,push""#,
            r#", Negotiate, BASIC realm="a, \"b\"", NTLM TlRM+/==, Bearer Realm = r ,, service="s" ,"#,
            "Basic",
        ],
        check: challenges,
    },
];

/// What two inputs have in common that do not lead to anything new.
fn shape(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Lengths count by their magnitude.
fn magnitude(length: usize) -> u32 {
    length.checked_ilog2().map_or(0, |log| log + 1)
}

fn reference(input: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(input).ok()?;
    let check = |read: shim_protocol::Result<Reference>| match read {
        Ok(reference) => {
            let written = reference.to_string();
            assert_eq!(Reference::parse(&written).ok().as_ref(), Some(&reference), "{written}");
            assert!(written.is_ascii() && written.len() < 1024);
            // It becomes a part of an address.
            let url = format!("http://x/v2/{}/manifests/x", reference.path());
            assert!(!reference.path().contains("..") && !url.contains(['?', '#', '%', ' ']));
            assert!(!reference.host().contains(['/', '@', '?', '#']));
            let named = reference.with_digest(Digest::parse(DIGEST).expect("a digest"));
            assert_eq!(named.object().expect("an object"), DIGEST);
            assert!(reference.clone().or_latest().object().is_ok());
            Some(shape((
                magnitude(reference.host().len()),
                reference.path().matches(['/', '-', '.', '_']).count().min(20),
                reference.tag().map(|tag| magnitude(tag.len())),
                reference.digest().map(|digest| digest.algorithm()),
                reference.host().matches([':', '.', '[', '-']).count().min(20),
            )))
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().len() < 8192);
            None
        }
    };
    let full = check(Reference::parse(text));
    let short = check(Reference::parse_short(text));
    full.or(short)
}

fn platform(input: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(input).ok()?;
    let platform = match Platform::parse(text) {
        Ok(platform) => platform,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            return None;
        }
    };
    let normal = platform.normalize();
    assert_eq!(normal.normalize(), normal);
    let written = platform.to_string();
    let again = Platform::parse(&written).expect("its own form");
    let without = |one: &Platform| Platform {
        os_version: String::new(),
        os_features: Vec::new(),
        ..one.normalize()
    };
    assert_eq!(without(&again), without(&platform), "{written}");
    for matcher in [
        Matcher::only(&platform),
        Matcher::strict(&platform),
        Matcher::any(std::slice::from_ref(&platform)),
    ] {
        assert!(matcher.matches(&platform), "{written}");
        assert!(matcher.matches(&normal), "{written}");
        assert!(matcher.compare(&platform, &platform).is_eq());
        let host = Platform::host();
        let (ab, ba) = (matcher.compare(&platform, &host), matcher.compare(&host, &platform));
        assert_eq!(ab, ba.reverse());
    }
    Some(shape((
        normal.architecture.len().min(12),
        &normal.variant[..normal.variant.floor_char_boundary(3)],
        normal.os_features.len().min(5),
        normal.os_version.is_empty(),
        text.matches('/').count(),
    )))
}

/// Errors that documents may have.
fn refused(error: &shim_protocol::Error) -> Option<u64> {
    let kinds = [ErrorKind::InvalidArgument, ErrorKind::Unimplemented];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    None
}

fn manifest(input: &[u8]) -> Option<u64> {
    let below = children(media_type::OCI_MANIFEST, input);
    let manifest = match Manifest::parse(input) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(below.is_err());
            return refused(&error);
        }
    };
    assert!(Index::parse(input).is_err(), "index and manifest at once");
    assert_eq!(below.expect("children").len(), manifest.layers.len() + 1);
    let written = manifest.to_json().expect("its own form");
    assert_eq!(Manifest::parse(&written).ok().as_ref(), Some(&manifest));
    let first = manifest.layers.first();
    Some(shape((
        magnitude(manifest.layers.len()),
        manifest.subject.is_some(),
        manifest.artifact_type.is_some(),
        manifest.annotations.len().min(4),
        first.map(|layer| (layer.urls.len().min(4), layer.annotations.len().min(4))),
        manifest.config.platform.is_some(),
        64 - manifest.config.size.leading_zeros(),
    )))
}

fn index(input: &[u8]) -> Option<u64> {
    let below = children(media_type::DOCKER_MANIFEST_LIST, input);
    let index = match Index::parse(input) {
        Ok(index) => index,
        Err(error) => {
            assert!(below.is_err());
            return refused(&error);
        }
    };
    assert!(Manifest::parse(input).is_err(), "index and manifest at once");
    assert_eq!(below.expect("children"), index.manifests);
    let written = index.to_json().expect("its own form");
    assert_eq!(Index::parse(&written).ok().as_ref(), Some(&index));
    for one in &index.manifests {
        if let Some(platform) = &one.platform {
            let normal = platform.normalize();
            assert_eq!(normal.normalize(), normal);
            let _ = Matcher::host().matches(platform);
            let _ = Matcher::only(platform).compare(platform, &normal);
        }
    }
    let mut sorted = index.manifests.clone();
    let host = Matcher::host();
    sorted.sort_by(|a, b| match (&a.platform, &b.platform) {
        (Some(a), Some(b)) => host.compare(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let first = index.manifests.first();
    Some(shape((
        magnitude(index.manifests.len()),
        index.subject.is_some(),
        index.annotations.len().min(4),
        first.map(|one| (one.platform.is_some(), one.artifact_type.is_some(), one.size.min(9))),
    )))
}

fn config(input: &[u8]) -> Option<u64> {
    let config = match Config::parse(input) {
        Ok(config) => config,
        Err(error) => return refused(&error),
    };
    assert_eq!(chain_ids(&config.diff_ids).len(), config.diff_ids.len());
    let _ = config.platform.normalize();
    Some(shape((
        magnitude(config.diff_ids.len()),
        magnitude(config.history.len()),
        (config.env.len().min(4), config.entrypoint.len().min(4), config.cmd.len().min(4)),
        (config.labels.len().min(4), config.volumes.len().min(4)),
        (config.user.is_empty(), config.working_dir.is_empty(), config.stop_signal.is_empty()),
        (config.platform.os.is_empty(), config.exposed_ports.len().min(4)),
    )))
}

fn hosts(input: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(input).ok()?;
    match check_hosts_toml(text, Path::new("/etc/certs.d/h.io")) {
        Ok(count) => {
            // The host itself is always among them.
            assert!(count >= 1);
            Some(shape((count.min(16), text.matches('=').count().min(24), magnitude(text.len()))))
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            None
        }
    }
}

fn challenges(input: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(input).ok()?;
    let read = challenge::parse([text]);
    assert!(read.len() <= 16);
    for one in &read {
        assert!(!one.scheme.is_empty() && one.parameters.len() <= 32);
        assert_eq!(one.scheme, one.scheme.to_ascii_lowercase());
        for (name, value) in &one.parameters {
            assert!(!name.is_empty() && value.len() <= text.len());
        }
    }
    // Written plainly, it is read as the same.
    let plain = |one: &challenge::Challenge| {
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
        let parameters: Vec<String> = one
            .parameters
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", quoted(value)))
            .collect();
        format!("{} {}", one.scheme, parameters.join(", "))
    };
    let written: Vec<String> = read.iter().map(plain).collect();
    assert_eq!(challenge::parse([written.join(", ").as_str()]), read, "{written:?}");
    let counts: Vec<usize> = read.iter().map(|one| one.parameters.len().min(4)).collect();
    (!read.is_empty()).then(|| shape(&counts[..counts.len().min(4)]))
}
