//! Records of sandboxes: what several containers share.
