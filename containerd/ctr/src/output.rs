//! Standard output. The standard library's macros end the program with a panic
//! when the reader is gone, as in `ctr events | head`.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Prints a line.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Prints text that has its line ends.
pub(crate) fn text(text: impl Display) -> io::Result<()> {
    write!(io::stdout(), "{text}")
}

/// Was it the reader of standard output that went away? Then there is nobody to
/// tell.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
