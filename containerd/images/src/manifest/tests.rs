use shim_protocol::ErrorKind;

use super::*;
use crate::Platform;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(size: &str) -> String {
    format!(r#"{{"mediaType":"a/b","digest":"{EMPTY}","size":{size}}}"#)
}

#[test]
fn a_manifest_is_read_and_written() {
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"annotations":{{"a":"b"}}}}"#,
        media_type::OCI_MANIFEST,
        descriptor("2"),
        descriptor("3"),
    );
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.config.size, 2);
    assert_eq!(manifest.layers[0].size, 3);
    assert_eq!(manifest.annotations["a"], "b");
    assert_eq!(String::from_utf8(manifest.to_json().unwrap()).unwrap(), text);
    let children = children(media_type::DOCKER_MANIFEST, text.as_bytes()).unwrap();
    assert_eq!(children, [manifest.config, manifest.layers[0].clone()]);
}

#[test]
fn an_index_is_read_and_written() {
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{EMPTY}","size":5,"urls":["u"],"annotations":{{"x":"y"}},"platform":{{"architecture":"arm","os":"linux","os.version":"1","os.features":["f"],"variant":"v7"}},"artifactType":"t"}}],"subject":{}}}"#,
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        descriptor("1"),
    );
    let index = Index::parse(text.as_bytes()).unwrap();
    let platform = Platform {
        os: "linux".into(),
        architecture: "arm".into(),
        variant: "v7".into(),
        os_version: "1".into(),
        os_features: vec!["f".into()],
    };
    assert_eq!(index.manifests[0].platform, Some(platform));
    assert_eq!(index.subject.as_ref().unwrap().size, 1);
    assert_eq!(String::from_utf8(index.to_json().unwrap()).unwrap(), text);
    assert_eq!(children(media_type::OCI_INDEX, text.as_bytes()).unwrap(), index.manifests);
}

#[test]
fn embedded_and_unknown_parts_are_passed_over() {
    let text = format!(
        r#"{{"manifests":[{{"digest":"{EMPTY}","size":0,"data":"e30=","platform":null,
           "annotations":null,"new":[{{}}]}}],"config":null,"new":1}}"#
    );
    let index = Index::parse(text.as_bytes()).unwrap();
    assert_eq!(index.manifests, [Descriptor::new("", Digest::parse(EMPTY).unwrap(), 0)]);
}

#[test]
fn what_is_both_is_neither() {
    let one = descriptor("1");
    for text in [
        format!(r#"{{"manifests":[],"config":{one}}}"#),
        format!(r#"{{"manifests":[],"layers":[],"config":{one}}}"#),
        format!(r#"{{"mediaType":"{}","manifests":[],"layers":[]}}"#, media_type::OCI_INDEX),
        format!(r#"{{"mediaType":"{}","manifests":[]}}"#, media_type::OCI_MANIFEST),
        format!(r#"{{"mediaType":"{}","config":{one}}}"#, media_type::DOCKER_MANIFEST_LIST),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "{".to_owned(),
        String::new(),
    ] {
        let manifest = Manifest::parse(text.as_bytes());
        let index = Index::parse(text.as_bytes());
        for error in [manifest.expect_err(&text), index.expect_err(&text)] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }
}

#[test]
fn docker_schema_1_is_named() {
    for text in [
        format!(r#"{{"schemaVersion":1,"fsLayers":[],"mediaType":"{DOCKER_SCHEMA1}"}}"#),
        format!(r#"{{"mediaType":"{DOCKER_SCHEMA1_SIGNED}"}}"#),
        r#"{"fsLayers":[{"blobSum":"x"}]}"#.to_owned(),
    ] {
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err().kind(), ErrorKind::Unimplemented);
        assert_eq!(Index::parse(text.as_bytes()).unwrap_err().kind(), ErrorKind::Unimplemented);
    }
    let error = children(DOCKER_SCHEMA1_SIGNED, b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
}

#[test]
fn bad_descriptors_are_refused() {
    for bad in [
        descriptor("-1"),
        descriptor("1.5"),
        descriptor("9223372036854775808"),
        descriptor("\"1\""),
        descriptor("null"),
        r#"{"digest":"sha256:00","size":1}"#.to_owned(),
        r#"{"digest":"","size":1}"#.to_owned(),
        format!(r#"{{"digest":"{EMPTY}"}}"#),
        "1".to_owned(),
    ] {
        let text = format!(r#"{{"config":{bad},"layers":[]}}"#);
        let error = Manifest::parse(text.as_bytes()).expect_err(&text);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let long = vec![b' '; usize::try_from(DOCUMENT_MAX_BYTES).unwrap() + 1];
    assert_eq!(Manifest::parse(&long).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    assert_eq!(Config::parse(&long).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    let deep = format!("{{\"new\":{}", "[".repeat(100_000));
    assert_eq!(Index::parse(deep.as_bytes()).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_configuration_is_read() {
    let text = format!(
        r#"{{"architecture":"arm","variant":"v7","os":"linux","created":"2024-01-01T00:00:00Z",
        "config":{{"User":"1:2","ExposedPorts":{{"80/tcp":{{}}}},"Env":["A=b"],"Entrypoint":["/e"],
        "Cmd":["c"],"Volumes":{{"/v":{{}}}},"WorkingDir":"/w","Labels":{{"l":"m"}},
        "StopSignal":"SIGQUIT","Healthcheck":{{"Test":["NONE"]}}}},
        "rootfs":{{"type":"layers","diff_ids":["{EMPTY}"]}},
        "history":[{{"created_by":"x","empty_layer":true}}],"container":"old"}}"#
    );
    let config = Config::parse(text.as_bytes()).unwrap();
    assert_eq!(config.platform, Platform::parse("linux/arm/v7").unwrap());
    assert_eq!(config.diff_ids, [Digest::parse(EMPTY).unwrap()]);
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1:2", "/w"));
    assert_eq!((config.env.len(), config.entrypoint[0].as_str()), (1, "/e"));
    assert_eq!((config.cmd[0].as_str(), config.stop_signal.as_str()), ("c", "SIGQUIT"));
    assert!(config.volumes.contains("/v") && config.exposed_ports.contains("80/tcp"));
    assert_eq!(config.labels["l"], "m");
    assert!(config.history[0].empty_layer);
    assert_eq!(Config::parse(b"{}").unwrap(), Config::default());
    let nulls = br#"{"config":{"Env":null,"Volumes":null},"rootfs":null,"history":null}"#;
    assert_eq!(Config::parse(nulls).unwrap(), Config::default());
    let error = Config::parse(br#"{"rootfs":{"diff_ids":["sha256:0"]}}"#).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn chains_have_the_names_that_go_gives_them() {
    assert_eq!(chain_id(&[]), None);
    let layers: Vec<Digest> =
        ["a", "b", "c"].iter().map(|s| Digest::of(Algorithm::Sha256, s.as_bytes())).collect();
    assert_eq!(chain_id(&layers[..1]), Some(layers[0].clone()));
    let two = Digest::of(Algorithm::Sha256, format!("{} {}", layers[0], layers[1]).as_bytes());
    let three = Digest::of(Algorithm::Sha256, format!("{two} {}", layers[2]).as_bytes());
    assert_eq!(chain_ids(&layers), [layers[0].clone(), two, three]);
}
