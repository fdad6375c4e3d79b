//! Certificates whose status is asked for, with their issuers, and the keys of answers about them.

use foreign_types::ForeignTypeRef as _;
use openssl::{
    error::ErrorStack,
    nid::Nid,
    sha::{Sha256, sha256},
    x509::{X509, X509Ref},
};

use crate::tls;

/// Key that an answer is stored under: SHA-256 of who has issued the certificate (name and key), and its serial number.
/// Two certificates of one issuer, such as an old one and its renewal, are one issuer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key(pub(super) [u8; 32]);

/// A certificate and the one that has signed it, as they were verified.
#[derive(Clone)]
pub(crate) struct Subject {
    /// Certificate whose status is asked for.
    pub(super) certificate: X509,
    /// Certificate that has signed it.
    pub(super) issuer: X509,
    /// Key of answers about it.
    pub(super) key: Key,
    /// SHA-256 of the issuer's name and key.
    authority: [u8; 32],
}

impl Subject {
    /// Makes the subject of a certificate that this issuer has issued, as was verified.
    pub(crate) fn new(certificate: &X509Ref, issuer: &X509Ref) -> Result<Self, ErrorStack> {
        let mut digest = Sha256::new();
        digest.update(&issuer.subject_name().to_der()?);
        digest.update(&issuer.public_key()?.public_key_to_der()?);
        let authority = digest.finish();
        let serial = certificate.serial_number().to_bn()?.to_vec();
        let key = Key(sha256(&[&authority[..], &serial].concat()));
        Ok(Self { certificate: certificate.to_owned(), issuer: issuer.to_owned(), key, authority })
    }

    /// Key that a CRL is stored under: the same URL of another issuer's certificates is another one.
    pub(super) fn list_key(&self, url: &str) -> Key {
        Key(sha256(&[&self.authority[..], url.as_bytes()].concat()))
    }

    /// Makes the subjects of a verified chain, leaf first, without the root: nobody but its owner could revoke that.
    pub(crate) fn all(chain: &[X509]) -> Result<Vec<Self>, ErrorStack> {
        chain.windows(2).map(|pair| Self::new(&pair[0], &pair[1])).collect()
    }

    /// Names the certificate for people: its subject and issuer.
    pub(super) fn name(&self) -> String {
        let certificate = &self.certificate;
        let issuer = tls::distinguished_name(certificate.issuer_name());
        format!("{}, issued by {issuer}", tls::distinguished_name(certificate.subject_name()))
    }

    /// URLs of OCSP responders (RFC 5280, section 4.2.2.1), a few at most, http and https only.
    pub(super) fn responders(&self) -> Vec<String> {
        let urls = self.certificate.ocsp_responders().ok();
        let urls = urls.iter().flatten().map(|url| url.to_string());
        urls.filter(|url| is_web(url)).take(URLS).collect()
    }

    /// Whether it names an OCSP responder.
    pub(crate) fn has_responder(&self) -> bool {
        !self.responders().is_empty()
    }

    /// URLs of lists of revoked certificates (RFC 5280, section 4.2.1.13), a few at most, http and https only.
    pub(super) fn lists(&self) -> Vec<String> {
        let points = self.certificate.crl_distribution_points();
        let names = points.iter().flatten().filter_map(|point| point.distpoint().and_then(|name| name.fullname()));
        let urls = names.flatten().filter_map(|name| name.uri().map(str::to_owned));
        urls.filter(|url| is_web(url)).take(URLS).collect()
    }

    /// Whether its status has to come with it: it has the TLS feature `status_request` (RFC 7633).
    pub(super) fn must_be_stapled(&self) -> bool {
        const STATUS_REQUEST: &[u8] = &[5];
        let Some(mut rest) = extension(&self.certificate, NID_TLSFEATURE).and_then(|der| der.get(2..)) else {
            return false;
        };
        // A sequence of integers, of which each has its tag, its length and its value.
        while let [_integer, length, after @ ..] = rest {
            let Some((value, others)) = after.split_at_checked(usize::from(*length)) else { return false };
            if value == STATUS_REQUEST {
                return true;
            }
            rest = others;
        }
        false
    }
}

/// Most URLs that are looked at: a certificate of a stranger may name thousands.
const URLS: usize = 4;

/// `NID_tlsfeature` (openssl/obj_mac.h), which the openssl crate lacks.
const NID_TLSFEATURE: i32 = 1020;

fn is_web(url: &str) -> bool {
    const LONGEST: usize = 2048;
    if url.len() > LONGEST {
        return false;
    }
    let scheme = url.split_once("://").map_or("", |(scheme, _rest)| scheme);
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Value of a certificate's extension in DER, by OpenSSL's number of it (`NID_*`).
#[expect(unsafe_code, reason = "the openssl crate gives only the extensions that it knows")]
pub(super) fn extension(certificate: &X509Ref, nid: i32) -> Option<&[u8]> {
    // SAFETY: the certificate is alive; what is returned belongs to it, and is of the length that it says.
    unsafe {
        let index = openssl_sys::X509_get_ext_by_NID(certificate.as_ptr(), nid, -1);
        if index < 0 {
            return None;
        }
        let data = openssl_sys::X509_EXTENSION_get_data(openssl_sys::X509_get_ext(certificate.as_ptr(), index));
        let text = data.cast::<openssl_sys::ASN1_STRING>();
        let length = usize::try_from(openssl_sys::ASN1_STRING_length(text)).ok()?;
        Some(std::slice::from_raw_parts(openssl_sys::ASN1_STRING_get0_data(text), length))
    }
}

/// Whether a responder's certificate need not be checked itself (RFC 6960, section 4.2.2.2.1).
pub(super) fn has_no_check(certificate: &X509Ref) -> bool {
    extension(certificate, Nid::ID_PKIX_OCSP_NOCHECK.as_raw()).is_some()
}
