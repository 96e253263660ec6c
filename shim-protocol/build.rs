//! Makes Rust of `proto/`, without `protoc`.

use std::io;
#[cfg(feature = "ttrpc")]
use std::{env, fmt::Write, fs, path::PathBuf};

#[cfg(feature = "ttrpc")]
use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

#[cfg(not(feature = "ttrpc"))]
fn main() -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "ttrpc")]
fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let mut inputs = fs::read_dir("proto")?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()?;
    inputs.sort();
    // Every shim carries this code: leave reflection and conveniences out.
    let messages = ProtobufCustomize::default()
        .lite_runtime(true)
        .generate_accessors(false)
        .generate_getter(false);
    let services = Customize { async_all: true, ..Default::default() };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    Codegen::new()
        .out_dir(&out)
        .inputs(&inputs)
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(messages)
        .customize(services)
        .run()?;
    write_module_list(&out)
}

/// Lists the generated files as modules of one parent: they refer to each
/// other as `super::name`.
#[cfg(feature = "ttrpc")]
fn write_module_list(out: &PathBuf) -> io::Result<()> {
    let mut names =
        fs::read_dir(out)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    let mut list = String::new();
    for path in names.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if matches!(stem, "mod" | "modules") {
            continue;
        }
        writeln!(list, "#[path = {path:?}]\npub mod {stem};").expect("a string takes all");
    }
    fs::write(out.join("modules.rs"), list)
}
