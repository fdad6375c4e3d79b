//! The cipher suites of this OpenSSL: their numbers, which cross to the hooks, and their names.

#![expect(unsafe_code, reason = "the openssl crate can't list the suites of a context")]

use std::sync::LazyLock;

use foreign_types::{ForeignType as _, ForeignTypeRef as _};
use openssl::{
    error::ErrorStack,
    ssl::{SslCipher, SslContext, SslContextBuilder, SslMethod},
    stack::StackRef,
};
use serde::{Serialize, Serializer};
use ssa_common::cipher::{CIPHERS, CipherList, CipherSet};

/// Catalogue of the cipher suites that this OpenSSL knows and that take certificates, 127 at most. A suite's number is
/// its place here, from 1.
static CATALOGUE: LazyLock<Vec<CatalogueEntry>> =
    LazyLock::new(|| catalogue().expect("OpenSSL can list its cipher suites"));

struct CatalogueEntry {
    name: &'static str,
    /// Name in IANA's registry; none if OpenSSL knows none.
    standard_name: Option<&'static str>,
    is_tls_1_3: bool,
}

/// A cipher suite of this OpenSSL, by its number: from 1, the place in the catalogue. Another OpenSSL may number them
/// differently.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Suite(u8);

impl Suite {
    /// Finds a suite by OpenSSL's or IANA's name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let at = CATALOGUE.iter().position(|known| known.name == name || known.standard_name == Some(name))?;
        Self::at(at)
    }

    /// Finds a suite by its number. None if no suite of this OpenSSL has it: an agent with another OpenSSL may have
    /// written it.
    pub(crate) fn numbered(number: u8) -> Option<Self> {
        (number != 0 && usize::from(number) <= CATALOGUE.len()).then_some(Self(number))
    }

    /// Lists the whole catalogue, in the order of the numbers.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..CATALOGUE.len()).filter_map(Self::at)
    }

    /// Lists the suites of one generation that OpenSSL offers by default, in its order. Of TLS 1.2's only those with
    /// forward secrecy and authenticated encryption, as Mozilla's intermediate configuration has them.
    pub(crate) fn by_default(tls_1_3: bool) -> Vec<Self> {
        let names = SslContextBuilder::new(SslMethod::tls_client()).map(|builder| names(&builder.build()));
        let suites = names.unwrap_or_default().into_iter().filter_map(Self::named);
        suites.filter(|suite| suite.is_tls_1_3() == tls_1_3 && suite.is_modern()).collect()
    }

    fn is_modern(self) -> bool {
        let name = self.name();
        let forward_secret = name.starts_with("ECDHE-") || name.starts_with("DHE-");
        self.is_tls_1_3() || forward_secret && (name.contains("-GCM-") || name.contains("-CHACHA20-"))
    }

    /// Number that crosses to the hooks, from 1.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Name that OpenSSL has for it, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub(crate) fn name(self) -> &'static str {
        self.known().name
    }

    /// Name in IANA's registry, such as `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`; none if OpenSSL knows none.
    pub(crate) fn standard_name(self) -> Option<&'static str> {
        self.known().standard_name
    }

    /// Whether it is a suite of TLS 1.3; else it is one of TLS 1.2 or before.
    pub(crate) fn is_tls_1_3(self) -> bool {
        self.known().is_tls_1_3
    }

    fn at(at: usize) -> Option<Self> {
        u8::try_from(at + 1).ok().map(Self)
    }

    fn known(self) -> &'static CatalogueEntry {
        &CATALOGUE[usize::from(self.0) - 1]
    }
}

impl Serialize for Suite {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Encodes suites in their order, best first, as the hooks' maps have them. Those beyond the list's room are left out.
pub(crate) fn cipher_list(suites: impl IntoIterator<Item = Suite>) -> CipherList {
    let mut list = CipherList::EMPTY;
    for (slot, suite) in list.0.iter_mut().zip(suites) {
        *slot = suite.number();
    }
    list
}

/// Encodes suites as a set without an order, as the hooks' maps have it.
pub(crate) fn cipher_set(suites: impl IntoIterator<Item = Suite>) -> CipherSet {
    let mut set = CipherSet::EMPTY;
    for suite in suites {
        set.add(suite.number());
    }
    set
}

/// Writes the suites of one generation with colons between their names, as `SSL_CTX_set_cipher_list(3)` and
/// `SSL_CTX_set_ciphersuites(3)` read them.
pub(crate) fn text(suites: &[Suite], tls_1_3: bool) -> String {
    let names = suites.iter().filter(|suite| suite.is_tls_1_3() == tls_1_3).map(|suite| suite.name());
    names.collect::<Vec<_>>().join(":")
}

fn catalogue() -> Result<Vec<CatalogueEntry>, ErrorStack> {
    const TLS_1_3: &str = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:\
                           TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256";
    let mut builder = SslContextBuilder::new(SslMethod::tls_client())?;
    builder.set_ciphersuites(TLS_1_3)?;
    builder.set_cipher_list("ALL:eNULL:!PSK:!SRP:@SECLEVEL=0")?;
    let context = builder.build();
    let mut known: Vec<CatalogueEntry> = ciphers(&context)
        .iter()
        .map(|cipher| CatalogueEntry {
            name: cipher.name(),
            standard_name: cipher.standard_name(),
            is_tls_1_3: cipher.version() == "TLSv1.3",
        })
        .collect();
    // Number 0 ends lists.
    known.truncate(CIPHERS - 1);
    Ok(known)
}

fn names(context: &SslContext) -> Vec<&'static str> {
    ciphers(context).iter().map(|cipher| cipher.name()).collect()
}

fn ciphers(context: &SslContext) -> &StackRef<SslCipher> {
    unsafe extern "C" {
        /// `SSL_CTX_get_ciphers(3)`: borrowed from the context.
        fn SSL_CTX_get_ciphers(context: *const openssl_sys::SSL_CTX) -> *mut openssl_sys::stack_st_SSL_CIPHER;
    }
    // SAFETY: the context is alive, and so is its stack for as long; it always has one.
    unsafe { StackRef::from_ptr(SSL_CTX_get_ciphers(context.as_ptr())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_by_both_names() {
        let suite = Suite::named("ECDHE-RSA-AES128-GCM-SHA256").unwrap();
        assert_eq!(Suite::named("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), Some(suite));
        assert_eq!(Suite::numbered(suite.number()), Some(suite));
        assert!(!suite.is_tls_1_3() && Suite::named("TLS_AES_128_GCM_SHA256").unwrap().is_tls_1_3());
        assert_eq!((Suite::named("PSK-AES128-GCM-SHA256"), Suite::named("")), (None, None));
    }

    #[test]
    fn names_fit_and_their_hashes_differ() {
        let names: Vec<&str> =
            Suite::all().flat_map(|suite| [Some(suite.name()), suite.standard_name()]).flatten().collect();
        let hashes: std::collections::HashSet<u64> =
            names.iter().map(|name| ssa_common::cipher::hash(name.as_bytes())).collect();
        let different: std::collections::HashSet<&str> = names.iter().copied().collect();
        assert_eq!(hashes.len(), different.len());
        assert!(Suite::all().all(|suite| suite.name().len() <= ssa_common::cipher::NAME_BYTES));
        assert!(Suite::all().count() < CIPHERS);
    }

    #[test]
    fn defaults_have_both_generations() {
        assert!(Suite::by_default(true).len() >= 3);
        assert!(Suite::by_default(false).contains(&Suite::named("ECDHE-RSA-AES256-GCM-SHA384").unwrap()));
    }
}
