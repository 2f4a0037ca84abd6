//! The contract of a server, as it is published.

use datasole_contract::{Contract, ContractError, Description, describe};

/// A contract in all its forms.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) description: Description,
    /// The TypeScript module.
    pub(crate) typescript: String,
    /// The hash of the description.
    pub(crate) hash: String,
}

impl Published {
    pub(crate) fn of<C: Contract>() -> Result<Self, ContractError> {
        let description = describe::<C>()?;
        Ok(Self { typescript: description.typescript(), hash: description.hash(), description })
    }
}
