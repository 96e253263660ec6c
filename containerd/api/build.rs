//! Makes Rust of the gRPC API's `.proto` files, without `protoc`.

use std::error::Error;

/// Folders with `.proto` files: ours, and the one shared with the shims.
const FOLDERS: [&str; 2] = ["proto", "../../shim-protocol/proto"];

/// Files that code is made from. What they import is found by itself.
const FILES: [&str; 18] = [
    // Services.
    "containers.proto",
    "events.proto",
    "health.proto",
    "introspection.proto",
    "leases.proto",
    "namespaces.proto",
    "tasks.proto",
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
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    for folder in FOLDERS {
        println!("cargo:rerun-if-changed={folder}");
    }

    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();

    tonic_prost_build::configure()
        .btree_map(".")
        .include_file("mod.rs")
        .compile_fds_with_config(protox::compile(FILES, FOLDERS)?, names)?;
    Ok(())
}
