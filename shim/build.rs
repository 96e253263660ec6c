//! How the shim is linked.

use std::{env, error::Error, fs, path::Path, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    // At a fixed address: tables of addresses, of which the runtime's libraries
    // have a quarter of a megabyte, need no adjustment then, and stay in the page
    // cache that all shims share, instead of being copied into each. What is
    // mapped besides the program, as its stack and heap, keeps its random place.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
    link_statically()
}

/// Without shared libraries, which have to be found, mapped and adjusted each time
/// that a container is started, and mapped again in each fork: half of what it
/// takes to execute the shim.
///
/// rustc links its standard library that way for whole targets only, and then has
/// no macros on this one. So what it asks for by name is found in a folder of
/// ours, where there are no shared ones: with a single one of them the program
/// would be half of each kind.
fn link_statically() -> Result<(), Box<dyn Error>> {
    if env::var("CARGO_CFG_TARGET_ENV")? != "gnu" || env::var("HOST")? != env::var("TARGET")? {
        return Ok(());
    }
    let out = env::var("OUT_DIR")?;
    let folder = Path::new(&out).join("static");
    fs::create_dir_all(&folder)?;
    for name in ["c", "dl", "gcc_s", "m", "pthread", "rt", "util"] {
        // The one that is shared has another name.
        let library = if name == "gcc_s" { "gcc_eh" } else { name };
        let option = format!("-print-file-name=lib{library}.a");
        let output = Command::new("cc").arg(option).output()?;
        let path = String::from_utf8(output.stdout)?;
        let path = Path::new(path.trim());
        if !path.is_absolute() {
            println!("cargo:warning=no lib{library}.a here: the shim will start more slowly");
            return Ok(());
        }
        fs::write(folder.join(format!("lib{name}.a")), format!("INPUT({})\n", path.display()))?;
    }
    println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    println!("cargo:rustc-link-arg-bins=-static");
    Ok(())
}
