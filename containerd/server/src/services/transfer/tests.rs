use containerd_api::to_any;

use super::*;

#[test]
fn what_a_client_wants_of_images_is_understood() {
    let wire = wire::ImageStore {
        name: "a".into(),
        platforms: vec![WirePlatform {
            os: "linux".into(),
            architecture: "x86_64".into(),
            ..Default::default()
        }],
        manifest_limit: 2,
        extra_references: vec![wire::ImageReference {
            name: "b".into(),
            is_prefix: true,
            add_digest: true,
            ..Default::default()
        }],
        unpacks: vec![wire::UnpackConfiguration { platform: None, snapshotter: "native".into() }],
        ..Default::default()
    };
    let spec = images_in(decode(&to_any(&wire)).unwrap());
    assert_eq!(spec.platforms[0].architecture, "amd64");
    assert_eq!(spec.manifest_limit, 2);
    assert!(spec.names[0].is_prefix && spec.names[0].add_digest);
    assert_eq!(spec.unpacks[0].platform, Platform::host());
}
