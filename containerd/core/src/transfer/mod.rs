//! Transfers: images between registries, archives and this daemon.
