use std::{fs, path::Path};

use clap::Parser;
use containerd_api::runc::v1::Options as RuncOptions;
use oci_spec::runtime::Spec;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    container: ContainerArgs,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn line(flags: &str) -> Line {
    let words = ["x"].into_iter().chain(flags.split_whitespace());
    Line::try_parse_from(words).unwrap()
}

fn spec(flags: &str) -> Result<Spec> {
    let line = line(flags);
    let positional = line.container.positional(&line.args)?;
    let spec = SpecBuilder::new("default", positional.id);
    Ok(line.container.spec(spec, &positional)?.build()?)
}

#[test]
fn the_first_argument_is_an_image_or_a_folder() {
    for (flags, from) in [
        ("docker.io/library/redis:7 web", From::Image("docker.io/library/redis:7")),
        ("--rootfs / web", From::Folder("/")),
    ] {
        let line = super::tests::line(flags);
        let positional = line.container.positional(&line.args).unwrap();
        assert_eq!(positional, Positional { from, id: "web", command: &[] });
    }
    let alone = line("docker.io/library/redis:7");
    let error = alone.container.positional(&alone.args).unwrap_err().to_string();
    assert!(error.contains("--rootfs"), "{error}");
}

#[test]
fn a_configuration_takes_an_id_only() {
    let good = line("--config c.json web");
    let positional = good.container.positional(&good.args).unwrap();
    assert_eq!(
        positional,
        Positional { from: From::Configuration(Path::new("c.json")), id: "web", command: &[] }
    );
    let bad = line("--config c.json web sh");
    assert!(bad.container.positional(&bad.args).is_err());
}

#[test]
fn flags_become_a_configuration() {
    let spec = spec(
        "--rootfs --env A=1 --env A=2 --cwd /tmp --memory-limit 4096 --cpus 0.5 --read-only \
         --mount type=bind,src=/a,dst=/b,options=rbind:ro --label x=y --annotation k=v \
         --cap-add CAP_SYS_ADMIN --cap-drop CAP_KILL --hostname h -t / web /bin/true -v",
    )
    .unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["/bin/true", "-v"]);
    let env = process.env().as_ref().unwrap();
    assert!(env.contains(&"A=2".to_owned()) && env.contains(&"TERM=xterm".to_owned()));
    assert_eq!(process.terminal(), Some(true));
    let linux = spec.linux().as_ref().unwrap();
    let resources = linux.resources().as_ref().unwrap();
    assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(4096));
    assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(50_000));
    assert_eq!(resources.cpu().as_ref().unwrap().shares(), Some(1024));
    let mounts = spec.mounts().as_ref().unwrap();
    assert_eq!(mounts.last().unwrap().destination(), Path::new("/b"));
    let annotations = spec.annotations().as_ref().unwrap();
    assert_eq!((annotations["x"].as_str(), annotations["k"].as_str()), ("y", "v"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn a_mount_takes_the_place_of_one() {
    let spec = spec("--rootfs --mount type=bind,src=/a,dst=/run / web").unwrap();
    let mounts = spec.mounts().as_ref().unwrap();
    let run: Vec<_> = mounts.iter().filter(|m| m.destination() == Path::new("/run")).collect();
    assert_eq!(run.len(), 1);
    assert_eq!(run[0].typ().as_deref(), Some("bind"));
}

#[test]
fn bad_flags_are_named() {
    for (flags, word) in [
        ("--rootfs --mount type / web", "type"),
        ("--rootfs --mount type=bind,src=/a / web", "dst"),
        ("--rootfs --cap-add SYS_ADMIN / web", "SYS_ADMIN"),
        ("--rootfs --with-ns net:/x / web", "net"),
        ("--rootfs --annotation a / web", "key=value"),
        ("--rootfs --uidmap 1:2 --gidmap 1:2:3 / web", "1:2"),
    ] {
        let error = format!("{:#}", spec(flags).unwrap_err());
        assert!(error.contains(word), "{flags}: {error}");
    }
}

#[test]
fn runc_flags_are_for_runc() {
    let runtime = |flags: &str| {
        let line = line(flags);
        line.container.runtime.runtime(line.container.cgroup.as_deref())
    };
    let options = runtime("--runc-binary crun / x").unwrap().options.unwrap();
    let options: RuncOptions = containerd_api::from_any(&options).unwrap();
    assert_eq!(options.binary_name, "crun");
    assert!(runtime("--runtime io.containerd.kata.v2 --runc-binary crun / x").is_err());
    assert!(runtime("--runc-systemd-cgroup / x").is_err());
    assert!(runtime("--runc-systemd-cgroup --cgroup a.slice:b:c / x").is_ok());
}

#[test]
fn labels_become_annotations_of_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), r#"{"ociVersion": "1.0.2", "annotations": {"a": "1"}}"#).unwrap();
    let labels = labels::parse(&["b=2".to_owned()]);
    let spec = parse::configuration(file.path(), &labels).unwrap();
    assert_eq!(spec["annotations"], serde_json::json!({"a": "1", "b": "2"}));
}
