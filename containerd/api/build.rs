//! Makes Rust of the gRPC API's `.proto` files, without `protoc`.

use std::{env, error::Error, fmt::Write, fs, path::PathBuf};

use tonic_prost_build::Builder;

/// Folders with `.proto` files: ours, and the one shared with the shims.
const FOLDERS: [&str; 2] = ["proto", "../../shim-protocol/proto"];

/// Files that code is made from. What they import is found by itself.
const FILES: [&str; 27] = [
    // Services.
    "containers.proto",
    "content.proto",
    "diff.proto",
    "events.proto",
    "health.proto",
    "images.proto",
    "introspection.proto",
    "leases.proto",
    "legacy.proto",
    "namespaces.proto",
    "sandbox.proto",
    "snapshots.proto",
    "streaming.proto",
    "tasks.proto",
    "transfer.proto",
    "version.proto",
    // Types of the services.
    "api_types.proto",
    "types.proto",
    "task_types.proto",
    // What travels as `Any`.
    "image_events.proto",
    "object_events.proto",
    "task_events.proto",
    "runc_options.proto",
    "cgroups_v1.proto",
    "cgroups_v2.proto",
    "runtime_options.proto",
    "transfer_types.proto",
];

/// What can be made into JSON: packages and messages.
const SERIALIZED: [&str; 7] = [
    ".containerd.events",
    ".containerd.services.images.v1.ImageCreate",
    ".containerd.services.images.v1.ImageUpdate",
    ".containerd.services.images.v1.ImageDelete",
    ".containerd.types.Mount",
    ".types",
    ".io.containerd.cgroups",
];

/// Fields of those whose types are not ours, and the function that writes them.
const SERIALIZED_WITH: [(&str, &str); 3] = [
    (".containerd.events.TaskExit.exited_at", "timestamp"),
    (".containerd.events.TaskDelete.exited_at", "timestamp"),
    (".containerd.events.ContainerCreate.Runtime.options", "any"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    for folder in FOLDERS {
        println!("cargo:rerun-if-changed={folder}");
    }

    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();

    let mut builder = tonic_prost_build::configure();
    if env::var_os("CARGO_FEATURE_SERDE").is_some() {
        builder = with_serde(builder);
    }
    let files = protox::compile(FILES, FOLDERS)?;
    let mut methods = String::from("[");
    for file in &files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                write!(
                    methods,
                    "Method {{ service: {name:?}, name: {:?}, client_streams: {}, \
                     server_streams: {} }},",
                    method.name(),
                    method.client_streaming(),
                    method.server_streaming(),
                )?;
            }
        }
    }
    methods.push(']');
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(folder.join("methods.rs"), methods)?;
    builder.btree_map(".").include_file("mod.rs").compile_fds_with_config(files, names)?;
    Ok(())
}

fn with_serde(mut builder: Builder) -> Builder {
    for path in SERIALIZED {
        builder = builder.message_attribute(path, "#[derive(serde::Serialize)]");
    }
    for (path, function) in SERIALIZED_WITH {
        let attribute = format!("#[serde(serialize_with = \"crate::json::{function}\")]");
        builder = builder.field_attribute(path, attribute);
    }
    builder
}
