//! The REST API of 2015.

mod address;

pub(crate) use address::Address;
