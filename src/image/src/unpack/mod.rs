//! One layer's way from compressed bytes to a directory.

mod extract;
mod tar;
mod whiteout;
