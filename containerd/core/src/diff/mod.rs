//! Layers and filesystems: what a layer makes of a filesystem, and which layer
//! two filesystems differ by.
