//! The types of CRDTs, as a contract names them.

use std::marker::PhantomData;

use ts_rs::{Config, TS};

/// A type of CRDT and its values.
pub trait CrdtType: 'static {
    /// The type's name on the wire.
    const NAME: &'static str;
    /// The values; `()` for counters, which have numbers.
    type Value: TS + 'static;

    /// The values in TypeScript, unless the type says all.
    fn value(config: &Config) -> Option<String> {
        Some(Self::Value::name(config))
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $type:ident = $name:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $type {}

        impl CrdtType for $type {
            const NAME: &'static str = $name;
            type Value = ();

            fn value(_: &Config) -> Option<String> {
                None
            }
        }
    )*};
}

macro_rules! containers {
    ($($(#[$doc:meta])* $type:ident = $name:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $type<T>(PhantomData<T>);

        impl<T: TS + 'static> CrdtType for $type<T> {
            const NAME: &'static str = $name;
            type Value = T;
        }
    )*};
}

counters! {
    /// A number that only grows.
    GCounter = "g-counter";
    /// A number that everybody may change.
    PnCounter = "pn-counter";
}

containers! {
    /// One value; the last write wins.
    LwwRegister = "lww-register";
    /// Values by name; the last write of a name wins.
    LwwMap = "lww-map";
    /// A set that only grows.
    GSet = "g-set";
    /// A set; an addition wins over a removal that did not see it.
    OrSet = "or-set";
}
