//! Harness of the black-box tests.
//!
//! A test gets a [`Bed`]: a private folder, a private mount namespace and a
//! running daemon, either ours or the one that Debian ships. It talks to the
//! daemon over the wire only: through the plain gRPC clients of [`Api`], or by
//! running a `ctr`. Nothing in here knows how any of the programs is built.
//!
//! [`every_pairing!`] runs the same test against each combination of daemon
//! and shim, so that the suite itself is checked against the originals.
//! When a test is over, whatever its end, everything it started is removed;
//! when it passed, [`leaks`] checks that there was nothing to remove.

mod api;
mod bed;
mod container;
pub mod content;
pub mod counter;
pub mod criu;
mod ctr;
mod daemon;
mod events;
pub mod faults;
pub mod figures;
pub mod images;
pub mod layers;
pub mod leaks;
pub mod legacy;
mod load;
pub mod order;
pub mod proc;
mod programs;
mod pty;
mod random;
pub mod registry;
mod rootfs;
mod sandbox;
mod spec;
mod stdio;
mod store;
pub mod syscalls;
mod systemd;
mod time;
pub mod transfer;

pub use api::{Api, code};
pub use bed::{Bed, run, run_plain};
pub use container::{Container, Exit, Process, Status};
pub use ctr::{Ctr, Output};
pub use daemon::Daemon;
pub use events::{Event, Events, Topic};
pub use load::Load;
pub use programs::{Origin, Pairing, Runtime, bin_dir, debug_dir, obstacle_to_crun, program, skip};
pub use pty::Terminal;
pub use random::Random;
pub use sandbox::Sandbox;
pub use spec::Spec;
pub use stdio::{Stdin, Stdio, Stream};
pub use store::Store;
pub use systemd::{Hierarchies, Systemd};
pub use time::{DEADLINE, eventually, within};

/// Makes one `#[test]` of each function for each [`Pairing`]; of those after
/// `our_daemon`, which test what the original daemon does not promise, only
/// for the pairings with our daemon.
///
/// A function takes `&mut Bed` and returns `anyhow::Result<()>`.
///
/// ```ignore
/// tests::every_pairing!(hello; our_daemon: hello_again);
///
/// /// A container says hello.
/// async fn hello(bed: &mut Bed) -> Result<()> { Ok(()) }
/// ```
#[macro_export]
macro_rules! every_pairing {
    ($($test:ident),+ $(,)? $(; our_daemon: $($more:ident),+ $(,)?)?) => {
        $crate::pairing!(original, $crate::Pairing::ORIGINAL, $($test),+);
        $crate::pairing!(our_shim, $crate::Pairing::OUR_SHIM, $($test),+);
        $crate::pairing!(our_daemon, $crate::Pairing::OUR_DAEMON, $($test),+ $(, $($more),+)?);
        $crate::pairing!(ours, $crate::Pairing::OURS, $($test),+ $(, $($more),+)?);
        $crate::pairing!(
            ours_with_runc, $crate::Pairing::OURS_WITH_RUNC, $($test),+ $(, $($more),+)?
        );
    };
}

/// Makes one `#[test]` of each function for each daemon, where it is of no
/// matter which shim it has.
#[macro_export]
macro_rules! every_daemon {
    ($($test:ident),+ $(,)?) => {
        $crate::pairing!(original, $crate::Pairing::ORIGINAL, $($test),+);
        $crate::pairing!(ours, $crate::Pairing::OURS, $($test),+);
    };
}

/// Makes one `#[test]` of each function for our daemon and shim with crun,
/// where the machine is one on which crun works.
#[macro_export]
macro_rules! with_crun {
    ($($test:ident),+ $(,)?) => {
        mod crun {
            $(
                #[test]
                fn $test() {
                    match $crate::obstacle_to_crun() {
                        Some(reason) => $crate::skip(concat!("crun::", stringify!($test)), &reason),
                        None => $crate::run($crate::Pairing::OURS_WITH_CRUN, super::$test),
                    }
                }
            )+
        }
    };
}

/// Makes one `#[test]` of each function for one [`Pairing`], in a module of
/// the name that is given first.
#[macro_export]
macro_rules! pairing {
    ($name:ident, $pairing:expr, $($test:ident),+ $(,)?) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    $crate::run($pairing, super::$test);
                }
            )+
        }
    };
}
