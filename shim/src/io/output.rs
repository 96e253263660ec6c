//! Where an output stream goes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    sync::Arc,
};

use shim_protocol::{Context, Error, Result};

use super::{
    copy::{Pollable, Sink},
    fifo::{OutputFifo, Unread},
    is_fifo,
    target::Target,
};

/// An output stream's [`Target`], opened.
pub(super) enum Output {
    Null,
    Fifo(OutputFifo),
    File(Arc<File>),
    Pipe(Arc<Pollable>),
}

impl Output {
    pub(super) fn open(target: &Target) -> Result<Self> {
        let path = match target {
            Target::Null => return Ok(Self::Null),
            Target::Logger(_) => {
                return Err(Error::invalid("a logger must be named by the standard output"));
            }
            Target::Path(path) if is_fifo(path)? => {
                let fifo = OutputFifo::open(path).context("open FIFO", path.display())?;
                return Ok(Self::Fifo(fifo));
            }
            Target::Path(path) => path,
            Target::File(path) => {
                let parent = path.parent().unwrap_or(path);
                fs::create_dir_all(parent).context("create", parent.display())?;
                path
            }
        };
        let file = OpenOptions::new()
            .append(true)
            .create(matches!(target, Target::File(_)))
            .open(path)
            .context("open", path.display())?;
        Ok(Self::File(Arc::new(file)))
    }

    pub(super) fn sink(&self) -> Sink {
        match self {
            Self::Null => Sink::Null,
            Self::Fifo(fifo) => Sink::Pollable(fifo.writer()),
            Self::File(file) => Sink::File(Arc::clone(file)),
            Self::Pipe(pipe) => Sink::Pollable(Arc::clone(pipe)),
        }
    }

    pub(super) fn close(self) -> io::Result<Option<Unread>> {
        match self {
            Self::Fifo(fifo) => fifo.close(),
            Self::Null | Self::File(_) | Self::Pipe(_) => Ok(None),
        }
    }
}
