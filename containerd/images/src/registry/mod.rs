//! Registries: where images come from, over HTTP (OCI distribution
//! specification, version 1.1).
