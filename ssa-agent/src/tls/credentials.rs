//! Parsing of PEM texts: certificates to trust, and certificate chains with their keys.

use openssl::{
    ocsp::OcspResponse,
    pkey::{Id, PKey, Private},
    ssl::SslRef,
    x509::X509,
};
use std::sync::Arc;
/// A certificate chain, leaf first, and the key of its leaf.
#[derive(Clone)]
pub(crate) struct Credential {
    chain: Vec<X509>,
    key: PKey<Private>,
    /// OCSP response about the leaf, in DER, for servers to staple; none if there was no `.ocsp` file beside the
    /// chain's.
    pub(crate) ocsp: Option<Arc<[u8]>>,
}

/// Credentials while they are being set, one option after the other.
#[derive(Clone, Default)]
pub(crate) struct Credentials(Vec<PendingCredential>);

/// A chain that may still wait for its key.
#[derive(Clone)]
struct PendingCredential {
    /// Leaf first; never empty.
    chain: Vec<X509>,
    /// The OCSP response beside it, in DER.
    ocsp: Option<Vec<u8>>,
    key: Option<PKey<Private>>,
}

impl Credentials {
    /// Adds a chain: the value of `TLS_CERTIFICATE_CHAIN`, and the OCSP response that was found beside it, in DER.
    /// Errors are texts for `TLS_ERROR`.
    pub(crate) fn add_chain(&mut self, pem: &[u8], ocsp: Option<Vec<u8>>) -> Result<(), String> {
        if let Some(der) = &ocsp {
            OcspResponse::from_der(der)
                .map_err(|error| format!("the file beside it, .ocsp, is no response: {error}"))?;
        }
        self.0.push(PendingCredential { chain: certificates(pem)?, ocsp, key: None });
        Ok(())
    }

    /// Adds the key (`TLS_PRIVATE_KEY`) of the latest chain that has none. Errors are texts for `TLS_ERROR`: no such
    /// chain, or a key that does not fit its leaf.
    pub(crate) fn add_key(&mut self, pem: &[u8]) -> Result<(), String> {
        let pending = self.0.iter_mut().rfind(|pending| pending.key.is_none());
        let pending = pending.ok_or("set the key's chain first (TLS_CERTIFICATE_CHAIN)")?;
        let key = private_key(pem)?;
        let public = pending.chain[0].public_key().map_err(|error| error.to_string())?;
        if !public.public_eq(&key) {
            return Err("the key does not fit the chain's first certificate".to_owned());
        }
        pending.key = Some(key);
        Ok(())
    }

    /// Finishes: the credentials in the order in which their chains were added. Errors: a chain without its key.
    pub(crate) fn finish(self) -> Result<Vec<Credential>, String> {
        let lacks = || "TLS_CERTIFICATE_CHAIN: the chain has no key (TLS_PRIVATE_KEY)".to_owned();
        let whole = |PendingCredential { chain, ocsp, key }| {
            Ok(Credential { chain, key: key.ok_or_else(lacks)?, ocsp: ocsp.map(Into::into) })
        };
        self.0.into_iter().map(whole).collect()
    }
}

impl Credential {
    /// Leaf of the chain: the certificate that the peer is shown.
    pub(crate) fn leaf(&self) -> &X509 {
        &self.chain[0]
    }

    /// Certificate chain, leaf first.
    pub(crate) fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// Type of the key, such as RSA or EC: a server may have one chain of each.
    pub(crate) fn key_type(&self) -> Id {
        self.key.id()
    }

    /// Loads the chain and key into an `Ssl`, for a peer that asks; of several types, OpenSSL takes one that the peer
    /// understands.
    pub(crate) fn offer(&self, ssl: &mut SslRef) -> Result<(), openssl::error::ErrorStack> {
        ssl.set_certificate(&self.chain[0])?;
        ssl.set_private_key(&self.key)?;
        for certificate in &self.chain[1..] {
            ssl.add_chain_cert(certificate.clone())?;
        }
        Ok(())
    }
}

/// Parses the certificates of a PEM text; at least one. Errors are texts for `TLS_ERROR`.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<X509>, String> {
    let all = X509::stack_from_pem(pem).map_err(|error| format!("not PEM certificates: {error}"))?;
    if all.is_empty() { Err("no certificate found".to_owned()) } else { Ok(all) }
}

/// Parses a PEM private key. An encrypted one is refused: nobody is there to type a passphrase.
fn private_key(pem: &[u8]) -> Result<PKey<Private>, String> {
    let mut encrypted = false;
    let key = PKey::private_key_from_pem_callback(pem, |_passphrase| {
        encrypted = true;
        Ok(0)
    });
    match key {
        Ok(key) => Ok(key),
        Err(_) if encrypted => Err("the key is encrypted; a service can't be asked for its passphrase".to_owned()),
        Err(error) => Err(format!("not a PEM private key: {error}")),
    }
}
