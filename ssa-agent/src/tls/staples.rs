//! OCSP responses that a peer has stapled: to its own certificate, and in TLS 1.3 to each of its chain (RFC 8446,
//! section 4.4.2.1). OpenSSL 3.0 hands out the first only, so the others are read from the message itself.

use std::sync::Mutex;

use openssl::{ssl::SslRef, x509::X509Ref};

use crate::sync::lock;

/// OCSP responses by certificate, both in DER, as a peer has sent them: not verified.
#[derive(Clone, Default)]
pub(crate) struct Staples(Vec<(Vec<u8>, Vec<u8>)>);

impl Staples {
    /// Response to a certificate, in DER.
    pub(crate) fn of(&self, certificate: &X509Ref) -> Option<&[u8]> {
        let der = certificate.to_der().ok()?;
        self.0.iter().find(|(stapled, _response)| *stapled == der).map(|(_certificate, response)| response.as_slice())
    }

    /// Collects the responses of a handshake that is done: `others` of its messages, and the one to the leaf, as
    /// OpenSSL gives it.
    pub(super) fn taken(ssl: &SslRef, others: &Mutex<Staples>) -> Self {
        let mut staples = lock(others).clone();
        if let (Some(response), Some(leaf)) = (ssl.ocsp_status(), ssl.peer_certificate())
            && let Ok(der) = leaf.to_der()
            && staples.of(&leaf).is_none()
        {
            staples.0.push((der, response.to_vec()));
        }
        staples
    }

    /// Reads the responses of a handshake message, if it is a Certificate message of TLS 1.3.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        parse(message).map(Self)
    }
}

/// Reads the certificates of a Certificate message of TLS 1.3 that have a response, with it (RFC 8446, section 4.4.2).
fn parse(message: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    const CERTIFICATE: u8 = 11;
    const STATUS_REQUEST: usize = 5;
    const OCSP: u8 = 1;
    let mut message = Reader(message);
    if message.number(1)? != usize::from(CERTIFICATE) {
        return None;
    }
    let mut body = message.vector(3)?;
    body.vector(1)?;
    let mut entries = body.vector(3)?;
    let mut found = Vec::new();
    while !entries.0.is_empty() {
        let certificate = entries.vector(3)?;
        let mut extensions = entries.vector(2)?;
        while !extensions.0.is_empty() {
            let kind = extensions.number(2)?;
            let mut value = extensions.vector(2)?;
            if kind == STATUS_REQUEST && value.number(1)? == usize::from(OCSP) {
                found.push((certificate.0.to_vec(), value.vector(3)?.0.to_vec()));
            }
        }
    }
    Some(found)
}

/// Entry point for fuzzers: what is found was in the message.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz_staples(message: &[u8]) {
    for (certificate, response) in parse(message).unwrap_or_default() {
        assert!(certificate.len() + response.len() < message.len());
    }
}

/// Reader of a byte slice; has the bytes that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads a number of so many bytes, big-endian.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let (number, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(number.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    /// Reads a vector: bytes with their count before them, which has so many bytes.
    fn vector(&mut self, bytes: usize) -> Option<Self> {
        let length = self.number(bytes)?;
        let (vector, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Self(vector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(bytes: usize, value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u32).to_be_bytes();
        [&length[4 - bytes..], value].concat()
    }

    fn entry(certificate: &[u8], response: Option<&[u8]>) -> Vec<u8> {
        let other = [vec![0, 18], vector(2, b"sct")].concat();
        let status = response.map(|one| [vec![0, 5], vector(2, &[vec![1], vector(3, one)].concat())].concat());
        [vector(3, certificate), vector(2, &[other, status.unwrap_or_default()].concat())].concat()
    }

    #[test]
    fn responses_are_found_by_certificate() {
        let entries = [entry(b"leaf", Some(b"good")), entry(b"middle", None), entry(b"upper", Some(b"too"))].concat();
        let message = [vec![11], vector(3, &[vector(1, b""), vector(3, &entries)].concat())].concat();
        let found = parse(&message).unwrap();
        assert_eq!(found, [(b"leaf".to_vec(), b"good".to_vec()), (b"upper".to_vec(), b"too".to_vec())]);
        for cut in 0..message.len() {
            assert!(parse(&message[..cut]).is_none(), "{cut}");
        }
        assert!(parse(&[&[8], &message[1..]].concat()).is_none(), "another message");
    }
}
