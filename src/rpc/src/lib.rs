//! stage
mod authority;
mod convert {
    pub(crate) mod enums;
    mod invalid;
    pub(crate) mod request;
    pub(crate) use invalid::{Invalid, Under};
}
mod layer;
mod methods;
mod status;
