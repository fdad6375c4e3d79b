//! Values of keys that are more than a number or a text: each is checked as it is read, so that an
//! error can name its line and column.

use openssl::ssl::{SslContextBuilder, SslMethod};
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::tls::Suite;

/// A TLS version that may be spoken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum Version {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// A cipher suite of TLS 1.2, by name.
pub(super) struct Suite12(pub(super) Suite);

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
pub(super) struct Suite13(pub(super) Suite);

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
pub(super) struct Group(pub(super) String);

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
pub(super) struct SignatureAlgorithm(pub(super) String);

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
pub(super) struct Alpn(pub(super) String);

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
    pub(crate) const MAX: f64 = 60.0;

    pub(super) const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

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

/// A group of this machine, by number or name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
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
