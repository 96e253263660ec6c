//! Images: names of content that containers are made from.
