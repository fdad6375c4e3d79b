//! Values of keys that are more than a number or a text: each is checked as it is read, so that an
//! error can name its line and column.

use std::{borrow::Cow, fmt, marker::PhantomData};

use openssl::ssl::{SslContextBuilder, SslMethod};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use toml::{Spanned, Value};

use crate::tls::Suite;

/// A TLS version that may be spoken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[schemars(inline)]
pub(crate) enum Version {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// A list of texts, each of which is checked as it is read: an error names the place of the one text, not of the list.
#[derive(Clone, Debug)]
pub(super) struct List<T>(Vec<T>);

impl<'de, T: TryFrom<String, Error = String>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let elements = Vec::<Element<T>>::deserialize(deserializer)?;
        Ok(Self(elements.into_iter().map(|element| element.0).collect()))
    }
}

impl<T: Into<U>, U> From<List<T>> for Vec<U> {
    fn from(list: List<T>) -> Self {
        list.0.into_iter().map(T::into).collect()
    }
}

/// An element of a [`List`].
struct Element<T>(T);

impl<'de, T: TryFrom<String, Error = String>> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(ElementVisitor(PhantomData)).map(Self)
    }
}

/// Checks an element while the deserializer still knows where it is.
struct ElementVisitor<T>(PhantomData<T>);

impl<T: TryFrom<String, Error = String>> de::Visitor<'_> for ElementVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::try_from(text.to_owned()).map_err(E::custom)
    }
}

/// A value, and where it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Placed<T>(pub(super) Spanned<T>);

impl From<Placed<bool>> for bool {
    fn from(placed: Placed<bool>) -> Self {
        placed.0.into_inner()
    }
}

/// What the JSON schema says of users and groups.
pub(super) fn number_or_name(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["integer", "string"], "minimum": 0 })
}

/// A cipher suite of TLS 1.2, by name.
#[derive(Clone, Debug)]
pub(super) struct Suite12(Suite);

impl From<Suite12> for Suite {
    fn from(value: Suite12) -> Self {
        value.0
    }
}

impl TryFrom<String> for Suite12 {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let suite = suite(&name)?;
        if suite.is_tls_1_3() {
            return Err(format!("{name} is a suite of TLS 1.3: it belongs to `ciphersuites`"));
        }
        Ok(Self(suite))
    }
}

/// A cipher suite of TLS 1.3, by name.
#[derive(Clone, Debug)]
pub(super) struct Suite13(Suite);

impl From<Suite13> for Suite {
    fn from(value: Suite13) -> Self {
        value.0
    }
}

impl TryFrom<String> for Suite13 {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let suite = suite(&name)?;
        if !suite.is_tls_1_3() {
            return Err(format!("{name} is no suite of TLS 1.3: it belongs to `ciphers`"));
        }
        Ok(Self(suite))
    }
}

fn suite(name: &str) -> Result<Suite, String> {
    Suite::named(name).ok_or_else(|| {
        format!("this OpenSSL has no cipher suite {name:?}; `openssl ciphers -stdname ALL` lists their names")
    })
}

/// A group for key exchange, as OpenSSL names it.
#[derive(Clone, Debug)]
pub(super) struct Group(String);

impl From<Group> for String {
    fn from(value: Group) -> Self {
        value.0
    }
}

impl TryFrom<String> for Group {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let taken = !name.contains(':') && builder()?.set_groups_list(&c_text(&name)?).is_ok();
        taken.then(|| Self(name.clone())).ok_or_else(|| {
            format!("this OpenSSL has no group {name:?}; some that it may have: \"X25519\", \"P-256\", \"P-384\"")
        })
    }
}

/// A signature algorithm, as OpenSSL names it.
#[derive(Clone, Debug)]
pub(super) struct SignatureAlgorithm(String);

impl From<SignatureAlgorithm> for String {
    fn from(value: SignatureAlgorithm) -> Self {
        value.0
    }
}

impl TryFrom<String> for SignatureAlgorithm {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let taken = !name.contains(':') && builder()?.set_sigalgs_list(&c_text(&name)?).is_ok();
        taken.then(|| Self(name.clone())).ok_or_else(|| {
            format!("this OpenSSL has no signature algorithm {name:?}; one that it has: \"ecdsa_secp256r1_sha256\"")
        })
    }
}

fn builder() -> Result<SslContextBuilder, String> {
    SslContextBuilder::new(SslMethod::tls_client()).map_err(|error| error.to_string())
}

/// The openssl crate panics at a NUL.
fn c_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') { Err("empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// An application protocol.
#[derive(Clone, Debug)]
pub(super) struct Alpn(String);

impl From<Alpn> for String {
    fn from(value: Alpn) -> Self {
        value.0
    }
}

impl TryFrom<String> for Alpn {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if (1..=254).contains(&name.len()) && !name.contains(',') && !name.contains('\0') {
            Ok(Self(name))
        } else {
            Err("a protocol's name has 1 to 254 bytes and no comma, such as \"h2\"".to_owned())
        }
    }
}

/// A span of time, in seconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "f64", into = "f64")]
pub(crate) struct Seconds(pub(super) std::time::Duration);

impl Seconds {
    /// Longest span, in seconds.
    pub(crate) const MAX: f64 = 60.0;

    /// Makes it of whole seconds.
    pub(super) const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// The span as a duration.
    pub(crate) fn get(self) -> std::time::Duration {
        self.0
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if (0.1..=Self::MAX).contains(&seconds) {
            Ok(Self(std::time::Duration::from_secs_f64(seconds)))
        } else {
            Err(format!("{seconds} is not from 0.1 to {} seconds", Self::MAX))
        }
    }
}

impl From<Seconds> for f64 {
    fn from(seconds: Seconds) -> Self {
        seconds.0.as_secs_f64()
    }
}

impl JsonSchema for Seconds {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0.1, "maximum": Self::MAX })
    }
}

/// A number that is not negative.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub(super) struct Count(u64);

impl TryFrom<i64> for Count {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        u64::try_from(number).map(Self).map_err(|_range| format!("{number} is below 0"))
    }
}

impl From<Count> for u64 {
    fn from(count: Count) -> Self {
        count.0
    }
}

impl From<Count> for Option<u64> {
    fn from(count: Count) -> Self {
        Some(count.0)
    }
}

/// A group of this machine, by number or name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Value")]
pub(crate) struct UserGroup(pub(crate) u32);

impl TryFrom<Value> for UserGroup {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => u32::try_from(number).map(Self).map_err(|_range| format!("{number} is no gid")),
            Value::String(name) => match nix::unistd::Group::from_name(&name) {
                Ok(Some(group)) => Ok(Self(group.gid.as_raw())),
                Ok(None) => Err(format!("this machine has no group {name:?}")),
                Err(error) => Err(format!("looking for group {name:?}: {error}")),
            },
            Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                Err("a group is a number or a name".to_owned())
            }
        }
    }
}

/// A user of this machine, by number or name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "Value")]
pub(crate) struct User(pub(crate) u32);

impl TryFrom<Value> for User {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => u32::try_from(number).map(Self).map_err(|_range| format!("{number} is no uid")),
            Value::String(name) => match nix::unistd::User::from_name(&name) {
                Ok(Some(user)) => Ok(Self(user.uid.as_raw())),
                Ok(None) => Err(format!("this machine has no user {name:?}")),
                Err(error) => Err(format!("looking for user {name:?}: {error}")),
            },
            Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                Err("a user is a number or a name".to_owned())
            }
        }
    }
}
