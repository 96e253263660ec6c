//! How the shim is linked.

fn main() {
    // At a fixed address: tables of addresses, of which the runtime's libraries
    // have a quarter of a megabyte, need no adjustment then, and stay in the page
    // cache that all shims share, instead of being copied into each. What is
    // mapped besides the program, as its stack and heap, keeps its random place.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
