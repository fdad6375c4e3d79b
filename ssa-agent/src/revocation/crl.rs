//! Certificate revocation lists (RFC 5280, section 5), looked at by OpenSSL's own verification: it knows of issuing
//! distribution points, of lists for some reasons only, and of extensions that it must not pass over.

#![expect(unsafe_code, reason = "the openssl crate can't put a CRL into a store")]

use std::ffi::c_int;

use foreign_types::ForeignTypeRef as _;
use openssl::{
    error::ErrorStack,
    stack::Stack,
    x509::{
        CrlStatus, ReasonCode, X509Crl, X509StoreContext, X509VerifyResult,
        store::{X509StoreBuilder, X509StoreBuilderRef},
        verify::X509VerifyFlags,
    },
};

use super::{
    answer::{Answer, Source, Status, is_ahead, is_past, revoked, seconds, until},
    subject::Subject,
};

unsafe extern "C" {
    fn X509_STORE_add_crl(store: *mut openssl_sys::X509_STORE, crl: *mut openssl_sys::X509_CRL) -> c_int;
}

/// A list as it was fetched. Its signature is not verified yet.
pub(super) struct Crl {
    crl: X509Crl,
    /// Length of its DER or PEM, in bytes.
    pub(super) length: usize,
}

impl Crl {
    /// Reads a list, in DER or PEM, that is neither old nor of the future.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        const PEM: &[u8] = b"-----BEGIN";
        let read = if bytes.starts_with(PEM) { X509Crl::from_pem(bytes) } else { X509Crl::from_der(bytes) };
        let crl = read.map_err(|_no_crl| "no CRL".to_owned())?;
        let list = Self { crl, length: bytes.len() };
        list.check_times()?;
        Ok(list)
    }

    /// Checks that the list is neither old nor of the future, give or take [`LEEWAY`](super::answer::LEEWAY).
    pub(super) fn check_times(&self) -> Result<(), String> {
        let next = self.crl.next_update().ok_or("the CRL does not say until when it counts")?;
        if is_ahead(self.crl.last_update()) {
            return Err("the CRL is of the future".to_owned());
        }
        if is_past(next) {
            return Err("the CRL has expired".to_owned());
        }
        Ok(())
    }

    /// Time at which it was made (`thisUpdate`), in seconds since 1970.
    pub(super) fn this_update(&self) -> u64 {
        seconds(self.crl.last_update()).unwrap_or(0)
    }

    /// Encodes the list in DER.
    pub(super) fn to_der(&self) -> Result<Vec<u8>, ErrorStack> {
        self.crl.to_der()
    }
}

/// Looks a certificate up in lists, if its issuer has signed them, and they are for certificates of its kind and,
/// together, for all reasons. Takes long for lists of megabytes.
pub(super) fn look_up<'a>(lists: impl IntoIterator<Item = &'a Crl>, subject: &Subject) -> Result<Answer, String> {
    let text = |stack: ErrorStack| stack.errors().last().and_then(|one| one.reason()).unwrap_or("?").to_owned();
    let lists: Vec<&Crl> = lists.into_iter().collect();
    let result = verify(&lists, subject).map_err(text)?;
    let status = match result.as_raw() {
        openssl_sys::X509_V_OK => Status::Good,
        openssl_sys::X509_V_ERR_CERT_REVOKED => entry(&lists, subject),
        openssl_sys::X509_V_ERR_UNABLE_TO_GET_CRL => return Err("the CRL is not for this certificate".to_owned()),
        _ => return Err(format!("the CRL is refused: {}", result.error_string())),
    };
    let next = lists.iter().filter_map(|list| list.crl.next_update()).map(|next| until(next).unwrap_or_default());
    let oldest = lists.iter().min_by_key(|list| list.this_update()).ok_or("there is no CRL")?;
    Ok(Answer::new(status, Source::Crl, (oldest.crl.last_update(), next.min()), None))
}

fn verify(lists: &[&Crl], subject: &Subject) -> Result<X509VerifyResult, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(subject.issuer.clone())?;
    // The chain was verified by the handshake, times are looked at with leeway.
    store.set_flags(
        X509VerifyFlags::CRL_CHECK
            | X509VerifyFlags::EXTENDED_CRL_SUPPORT
            | X509VerifyFlags::NO_CHECK_TIME
            | X509VerifyFlags::PARTIAL_CHAIN,
    )?;
    lists.iter().try_for_each(|list| add(&mut store, &list.crl))?;
    X509StoreContext::new()?.init(&store.build(), &subject.certificate, &*Stack::new()?, |context| {
        let verified = context.verify_cert()?;
        Ok(if verified { X509VerifyResult::OK } else { context.error() })
    })
}

fn add(store: &mut X509StoreBuilderRef, crl: &X509Crl) -> Result<(), ErrorStack> {
    // SAFETY: both are alive, and the store takes a reference of its own.
    let added = unsafe { X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) };
    if added == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Entry of a revoked certificate: when and why, in words.
fn entry(lists: &[&Crl], subject: &Subject) -> Status {
    for list in lists {
        if let CrlStatus::Revoked(entry) = list.crl.get_by_cert(&subject.certificate) {
            let reason = entry.extension::<ReasonCode>().ok().flatten();
            let code = reason.and_then(|(_critical, code)| code.get_i64().ok()).unwrap_or(0);
            return revoked(Some(entry.revocation_date()), code);
        }
    }
    revoked(None, 0)
}
