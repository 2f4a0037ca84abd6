//! Shared documents, compatible with Yjs: a [`Document`] keeps a [`yrs::Doc`] equal to those of all who have it open.

mod document;
mod keeper;
mod link;

pub use document::{Awareness, Document};
#[cfg(test)]
pub(crate) use keeper::Keeper;
