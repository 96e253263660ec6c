//! Tasks: the containers of this shim and the processes in them.

pub mod lifecycle;
pub mod state;
