//! [`contract!`](crate::contract).

/// Declares a contract: an uninhabited type that stands for the whole, the traits of its calls and events, and a type for
/// each key.
///
/// ```text
/// pub App {
///     rpc      { Params = "name" -> Result;  Params = "name" -> Result | ErrorData;  Params = "name" -> Result where check; }
///     events   { Data = "name" up;  Data = "name" down;  Data = "name" both; }
///     state    { Key = "key" => Value;  Key { id: u32 } = "key:{id}" => Value; }
///     crdt     { Key = "key" => PnCounter;  Key = "key" => OrSet<T>; }
///     presence { Key = "room" => Value; }
///     docs     { Key = "key"; }
/// }
/// ```
///
/// Parameters and data are types of one's own (`Serialize`, `Deserialize`, `TS`), each for one method or event. Keys are
/// declared here: a unit struct, or a struct with public fields that appear in the key. `check` is a function
/// `fn(&Params) -> Result<(), Invalid>`. The types of CRDTs are those of [`crdt`](crate::crdt). Sections may be left out;
/// documentation goes to TypeScript.
#[macro_export]
macro_rules! contract {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($section:ident { $($body:tt)* })* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis enum $name {}

        $($crate::__declare! { $vis $section { $($body)* } })*

        impl $crate::Contract for $name {
            const NAME: &'static str = stringify!($name);

            fn collect(to: &mut $crate::Collector) {
                // Without a section.
                let _ = &to;
                $($crate::__collect! { to $section { $($body)* } })*
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __declare {
    ($vis:vis rpc { $($(#[doc = $doc:literal])* $params:ty = $name:literal -> $result:ty $(| $error:ty)? $(where $check:path)?;)* }) => {$(
        impl $crate::Method for $params {
            const NAME: &'static str = $name;
            type Output = $result;
            type Error = $crate::__error!($($error)?);
            $(
                fn check(&self) -> ::core::result::Result<(), $crate::Invalid> {
                    $check(self)
                }
            )?
        }
    )*};
    ($vis:vis events { $($(#[doc = $doc:literal])* $data:ty = $name:literal $direction:ident;)* }) => {$(
        impl $crate::Event for $data {
            const NAME: &'static str = $name;
            const DIRECTION: $crate::Direction = $crate::__direction!($direction);
        }
    )*};
    ($vis:vis state { $($(#[doc = $doc:literal])* $key:ident $({ $($field:ident: $type:ty),* $(,)? })? = $pattern:literal => $value:ty;)* }) => {$(
        $crate::__key! { [$(#[doc = $doc])*] $vis $key $({ $($field: $type),* })? = $pattern, Key { type Value = $value; } }
    )*};
    ($vis:vis crdt { $($(#[doc = $doc:literal])* $key:ident $({ $($field:ident: $type:ty),* $(,)? })? = $pattern:literal => $crdt:ident $(<$value:ty>)?;)* }) => {$(
        $crate::__key! {
            [$(#[doc = $doc])*] $vis $key $({ $($field: $type),* })? = $pattern,
            CrdtKey { type Type = $crate::crdt::$crdt $(<$value>)?; }
        }
    )*};
    ($vis:vis presence { $($(#[doc = $doc:literal])* $key:ident $({ $($field:ident: $type:ty),* $(,)? })? = $pattern:literal => $value:ty;)* }) => {$(
        $crate::__key! { [$(#[doc = $doc])*] $vis $key $({ $($field: $type),* })? = $pattern, RoomKey { type Value = $value; } }
    )*};
    ($vis:vis docs { $($(#[doc = $doc:literal])* $key:ident $({ $($field:ident: $type:ty),* $(,)? })? = $pattern:literal;)* }) => {$(
        $crate::__key! { [$(#[doc = $doc])*] $vis $key $({ $($field: $type),* })? = $pattern, DocKey {} }
    )*};
    ($vis:vis $section:ident $body:tt) => {
        ::core::compile_error!(::core::concat!(
            "the section `", ::core::stringify!($section),
            "` is none of rpc, events, state, crdt, presence, docs, or an entry of it is not as the documentation of contract! has it",
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __key {
    ([$($doc:tt)*] $vis:vis $key:ident = $pattern:literal, $trait:ident { $($types:tt)* }) => {
        $($doc)*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis struct $key;

        impl $crate::$trait for $key {
            const PATTERN: &'static str = $pattern;
            $($types)*

            fn key(&self) -> ::std::borrow::Cow<'static, str> {
                ::std::borrow::Cow::Borrowed($pattern)
            }
        }
    };
    ([$($doc:tt)*] $vis:vis $key:ident { $($field:ident: $type:ty),* } = $pattern:literal, $trait:ident { $($types:tt)* }) => {
        $($doc)*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the fields stand in the key")]
        $vis struct $key {
            $(pub $field: $type,)*
        }

        impl $crate::$trait for $key {
            const PATTERN: &'static str = $pattern;
            $($types)*

            fn key(&self) -> ::std::borrow::Cow<'static, str> {
                let Self { $($field),* } = self;
                ::std::borrow::Cow::Owned(::std::format!($pattern))
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __collect {
    ($to:ident rpc { $($(#[doc = $doc:literal])* $params:ty = $name:literal -> $result:ty $(| $error:ty)? $(where $check:path)?;)* }) => {
        $($to.method::<$params>(&[$($doc),*]);)*
    };
    ($to:ident events { $($(#[doc = $doc:literal])* $data:ty = $name:literal $direction:ident;)* }) => {
        $($to.event::<$data>(&[$($doc),*]);)*
    };
    ($to:ident $section:ident { $($(#[doc = $doc:literal])* $key:ident $({ $($fields:tt)* })? = $pattern:literal $(=> $value:ty)?;)* }) => {
        $($to.$section::<$key>(&[$($doc),*]);)*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    () => {
        ()
    };
    ($error:ty) => {
        $error
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __direction {
    (up) => {
        $crate::Direction::Up
    };
    (down) => {
        $crate::Direction::Down
    };
    (both) => {
        $crate::Direction::Both
    };
    ($other:ident) => {
        ::core::compile_error!("an event goes up, down or both")
    };
}
