//! The only unsafe code of the shim: kernel calls that no safe wrapper covers.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod command;
pub(crate) mod fd;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod tty;
pub(crate) mod wait;
