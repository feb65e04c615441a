//! One layer's way from compressed bytes to a directory.

mod budget;
mod codec;
mod extract;
mod pipeline;
pub(crate) mod tar;
mod whiteout;

pub(crate) use budget::Budget;
pub(crate) use codec::Decoder;
pub use extract::ExtractError;
pub(crate) use extract::extract;
pub use pipeline::UnpackError;
pub(crate) use pipeline::{Expected, Feed, start};
pub use tar::TarError;
