//! A section of the configuration, made from one list of its keys.

/// A section as a file says it: each key may be absent.
pub(super) trait Keys {
    /// What is in force.
    type Section: Default;

    /// Overrides the keys that the file has.
    fn refine(&self, section: &mut Self::Section);

    /// What is in force if nothing else refines it.
    fn in_force(&self) -> Self::Section {
        let mut section = Self::Section::default();
        self.refine(&mut section);
        section
    }
}

/// Makes a section from one list of its keys. Each key has a doc comment, a type and a default:
///
/// ```text
/// section! {
///     /// What the section is about.
///     Time, written TimeKeys {
///         /// What the key means, in which unit, and what happens at its end.
///         idle_seconds: u64 as Count = 0,
///     }
/// }
/// ```
///
/// `Time` is what is in force: it has the defaults, and is printed by `ssa-agent check`. `TimeKeys` is what a file says: each
/// key may be absent. A key whose value is checked as it is read says `as` which type: it turns into the first one.
///
/// The doc comments are what `deploy/agent.toml`, the manual page and the JSON schema say about the section and its keys. Other
/// attributes belong to `Time`. A key without a fixed default has an example, and its doc comment says what holds without it.
macro_rules! section {
    (
        $(#[$about:meta])*
        $section:ident, written $written:ident {
            $(
                $(#[$key_about:meta])*
                $key:ident: $value:ty $(as $read:ty)? = $default:expr,
            )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, schemars::JsonSchema, serde::Serialize)]
        #[schemars(default, deny_unknown_fields)]
        pub(crate) struct $section {
            $($(#[$key_about])* pub(crate) $key: $value,)+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        /// The section as a file says it: keys that are absent are none.
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $written {
            $(pub(super) $key: Option<section!(@read $value $(, $read)?)>,)+
        }

        impl super::section::Keys for $written {
            type Section = $section;

            fn refine(&self, section: &mut $section) {
                $(if let Some(value) = &self.$key {
                    section.$key = value.clone().into();
                })+
            }
        }

        impl schemars::JsonSchema for $written {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                <$section as schemars::JsonSchema>::schema_name()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$section as schemars::JsonSchema>::json_schema(generator)
            }
        }
    };
    (@read $value:ty) => { $value };
    (@read $value:ty, $read:ty) => { $read };
}

pub(super) use section;
