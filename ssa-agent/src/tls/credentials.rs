//! What a program brings: certificates to trust, and certificate chains with their keys.

use openssl::{
    pkey::{PKey, Private},
    ssl::SslRef,
    x509::X509,
};

/// A certificate chain, leaf first, and the key of its leaf.
#[derive(Clone)]
pub(crate) struct Credential {
    chain: Vec<X509>,
    key: PKey<Private>,
}

/// Credentials while they are set, one option after the other.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    complete: Vec<Credential>,
    /// A chain whose key is still to come.
    pending: Option<Vec<X509>>,
}

impl Credentials {
    /// `TLS_CERTIFICATE_CHAIN`.
    pub(crate) fn add_chain(&mut self, pem: &[u8]) -> Result<(), String> {
        if self.pending.is_some() {
            return Err("the chain before this one has no key yet (TLS_PRIVATE_KEY)".to_owned());
        }
        self.pending = Some(certificates(pem)?);
        Ok(())
    }

    /// `TLS_PRIVATE_KEY`, of the chain before it.
    pub(crate) fn add_key(&mut self, pem: &[u8]) -> Result<(), String> {
        let chain = self.pending.take().ok_or("set the key's chain first (TLS_CERTIFICATE_CHAIN)")?;
        let key = private_key(pem)?;
        let public = chain[0].public_key().map_err(|error| error.to_string())?;
        if !public.public_eq(&key) {
            return Err("the key does not fit the chain's first certificate".to_owned());
        }
        self.complete.push(Credential { chain, key });
        Ok(())
    }

    /// All of them; an error if a chain lacks its key.
    pub(crate) fn finish(self) -> Result<Vec<Credential>, String> {
        match self.pending {
            None => Ok(self.complete),
            Some(_) => Err("TLS_CERTIFICATE_CHAIN: the chain has no key (TLS_PRIVATE_KEY)".to_owned()),
        }
    }
}

impl Credential {
    /// Offers it to a peer that asks; of several, OpenSSL takes the kind that the peer understands.
    pub(crate) fn offer(&self, ssl: &mut SslRef) -> Result<(), openssl::error::ErrorStack> {
        ssl.set_certificate(&self.chain[0])?;
        ssl.set_private_key(&self.key)?;
        for certificate in &self.chain[1..] {
            ssl.add_chain_cert(certificate.clone())?;
        }
        Ok(())
    }
}

/// The certificates of a PEM text; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<X509>, String> {
    let all = X509::stack_from_pem(pem).map_err(|error| format!("not PEM certificates: {error}"))?;
    if all.is_empty() { Err("no certificate found".to_owned()) } else { Ok(all) }
}

/// Nobody is there to type a passphrase.
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
