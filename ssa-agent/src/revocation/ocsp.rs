//! OCSP (RFC 6960), by OpenSSL's own functions: makes questions, and verifies responses.

#![expect(unsafe_code, reason = "nonces, a response's signer, and its times are not in the openssl crate")]

use std::{ffi::c_int, ptr, sync::Arc};

use foreign_types::ForeignTypeRef as _;
use openssl::{
    asn1::{Asn1GeneralizedTimeRef, Asn1TimeRef},
    error::ErrorStack,
    hash::MessageDigest,
    ocsp::{
        OcspBasicResponse, OcspBasicResponseRef, OcspCertId, OcspCertStatus, OcspFlag, OcspRequest, OcspResponse,
        OcspResponseStatus,
    },
    stack::Stack,
    x509::{X509, X509Ref, store::X509StoreBuilder, verify::X509VerifyFlags},
};

use super::{
    answer::{Answer, LEEWAY, Source, Status, is_ahead, is_past, revoked, until},
    subject::{Subject, has_no_check},
};

unsafe extern "C" {
    fn OCSP_request_add1_nonce(request: *mut openssl_sys::OCSP_REQUEST, value: *mut u8, length: c_int) -> c_int;
    fn OCSP_check_nonce(request: *mut openssl_sys::OCSP_REQUEST, response: *mut openssl_sys::OCSP_BASICRESP) -> c_int;
    fn OCSP_resp_get0_signer(
        response: *mut openssl_sys::OCSP_BASICRESP,
        signer: *mut *mut openssl_sys::X509,
        more: *mut openssl_sys::stack_st_X509,
    ) -> c_int;
}

/// Greatest age of a response without `nextUpdate`, in seconds.
const UNDATED_SECONDS: u32 = 3600;

/// Reason why a response is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The responder is all right, and does not know the certificate.
    #[error("the responder does not know the certificate")]
    Unknown,
    /// The response can't be used; the text says why.
    #[error("{0}")]
    Bad(String),
}

impl From<ErrorStack> for Error {
    fn from(stack: ErrorStack) -> Self {
        let reason = stack.errors().last().and_then(|error| error.reason()).unwrap_or("OpenSSL refuses it");
        Self::Bad(reason.to_owned())
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::Bad(what.into())
}

/// Makes the question about one certificate, with a random nonce (RFC 8954) if `nonce`.
pub(super) fn request(subject: &Subject, nonce: bool) -> Result<OcspRequest, ErrorStack> {
    let mut request = OcspRequest::new()?;
    // The hash by which responders know certificates (RFC 5019, section 2.1.1). It protects nothing.
    request.add_id(OcspCertId::from_cert(MessageDigest::sha1(), &subject.certificate, &subject.issuer)?)?;
    if nonce {
        // SAFETY: the request is alive; without a value OpenSSL makes a random one of its usual length.
        unsafe { OCSP_request_add1_nonce(request.as_ptr(), ptr::null_mut(), -1) };
    }
    Ok(request)
}

/// Verifies a response, and reads what it says of a certificate: its issuer, or a responder that the issuer has
/// delegated, must have signed it, and it must be neither old nor of the future. With the request `asked`, it must have
/// its nonce.
pub(super) fn read(
    der: &[u8],
    subject: &Subject,
    source: Source,
    asked: Option<&OcspRequest>,
) -> Result<Answer, Error> {
    let response =
        OcspResponse::from_der(der).map_err(|error| bad(format!("no OCSP response: {}", Error::from(error))))?;
    match response.status() {
        OcspResponseStatus::SUCCESSFUL => {}
        OcspResponseStatus::UNAUTHORIZED => return Err(Error::Unknown),
        status => return Err(bad(format!("the responder reports an error ({})", status_name(status)))),
    }
    let basic = response.basic()?;
    verify(&basic, &subject.issuer)?;
    if let Some(request) = asked {
        // SAFETY: both are alive.
        let same = unsafe { OCSP_check_nonce(request.as_ptr(), basic.as_ptr()) };
        if same != 1 {
            return Err(bad("the response has not the nonce that was asked for"));
        }
    }
    let status = [MessageDigest::sha1(), MessageDigest::sha256()].into_iter().find_map(|digest| {
        let id = OcspCertId::from_cert(digest, &subject.certificate, &subject.issuer).ok()?;
        basic.find_status(&id)
    });
    let status = status.ok_or_else(|| bad("the response is about another certificate"))?;
    let (this, next) = (time(status.this_update), status.next_update().map(time));
    if is_ahead(this) {
        return Err(bad("the response is of the future"));
    }
    if next.is_some_and(is_past) {
        return Err(bad("the response has expired"));
    }
    // OpenSSL's own judgement, besides: it also refuses a response that ends before it begins.
    let leeway = u32::try_from(LEEWAY.as_secs()).unwrap_or(0);
    status.check_validity(leeway, next.is_none().then_some(UNDATED_SECONDS))?;
    let found = match status.status {
        OcspCertStatus::GOOD => Status::Good,
        OcspCertStatus::REVOKED => revoked(status.revocation_time.map(time), i64::from(status.reason.as_raw())),
        _ => return Err(Error::Unknown),
    };
    // One that has just expired is an answer now, and not later.
    let next = next.map(|next| until(next).unwrap_or_default());
    Ok(Answer::new(found, source, (this, next), Some(Arc::from(der))))
}

/// Verifies the signature of a response, and that its signer may sign (RFC 6960, section 4.2.2.2).
fn verify(basic: &OcspBasicResponse, issuer: &X509) -> Result<(), Error> {
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(issuer.clone())?;
    // The issuer is trusted for this as it is: its own chain was verified by the handshake.
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    let mut known = Stack::new()?;
    known.push(issuer.clone())?;
    basic.verify(&known, &store.build(), OcspFlag::NO_EXPLICIT).map_err(|stack| {
        let why = Error::from(stack);
        bad(format!("the response is not by whom it should be ({why})"))
    })?;
    let signer = signer(basic, &known).ok_or_else(|| bad("the response does not say who has signed it"))?;
    // Who else has signed it may be revoked itself, unless its issuer has said that this is not to be asked.
    if !signer.public_key()?.public_eq(&*issuer.public_key()?) && !has_no_check(signer) {
        return Err(bad("the responder's own certificate may be revoked (it lacks id-pkix-ocsp-nocheck)"));
    }
    Ok(())
}

fn signer<'a>(basic: &'a OcspBasicResponseRef, known: &'a Stack<X509>) -> Option<&'a X509Ref> {
    let mut signer = ptr::null_mut();
    // SAFETY: both are alive, and the signer belongs to one of them.
    unsafe {
        let found = OCSP_resp_get0_signer(basic.as_ptr(), &raw mut signer, known.as_ptr());
        (found == 1 && !signer.is_null()).then(|| X509Ref::from_ptr(signer))
    }
}

/// Casts a time: OpenSSL has one type for both kinds (`ASN1_GENERALIZEDTIME`, `ASN1_TIME` in openssl/types.h).
fn time(time: &Asn1GeneralizedTimeRef) -> &Asn1TimeRef {
    // SAFETY: both are `struct asn1_string_st`, and functions for the one take the other.
    unsafe { Asn1TimeRef::from_ptr(time.as_ptr().cast()) }
}

fn status_name(status: OcspResponseStatus) -> &'static str {
    match status {
        OcspResponseStatus::MALFORMED_REQUEST => "malformedRequest",
        OcspResponseStatus::INTERNAL_ERROR => "internalError",
        OcspResponseStatus::TRY_LATER => "tryLater",
        OcspResponseStatus::SIG_REQUIRED => "sigRequired",
        _ => "an unknown one",
    }
}
