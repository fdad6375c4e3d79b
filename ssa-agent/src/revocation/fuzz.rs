//! Entry point for fuzzers of the parsers of responses and lists.

use super::{
    answer::Source,
    crl::{Crl, look_up},
    ocsp,
    subject::Subject,
};

/// Asserts that nothing that a fuzzer makes is an answer.
pub(crate) fn fuzz(bytes: &[u8], subject: &Subject) {
    assert!(ocsp::read(bytes, subject, Source::Ocsp, None).is_err(), "a forged response");
    if let Ok(list) = Crl::read(bytes) {
        assert!(look_up([&list], subject).is_err(), "a forged CRL");
    }
}
