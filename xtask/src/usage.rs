//! Types and directions of options in words, for the header and the manual pages.

use ssa_common::uapi::{Kind, Opt, When};

/// Type and directions of an option, in words.
pub(crate) fn usage(option: &Opt) -> String {
    format!("{}; set: {}; get: {}", value(option), when(option.set), when(option.get))
}

/// Type of an option's value, in words.
pub(crate) fn value(option: &Opt) -> String {
    match option.kind {
        Kind::Bool => "int, 0 or 1".to_owned(),
        Kind::Bytes(count) => format!("{count} bytes"),
        Kind::Cipher => "string, an OpenSSL or IANA name, with its NUL".to_owned(),
        Kind::Ciphers => "string, OpenSSL or IANA names, with its NUL".to_owned(),
        Kind::Der => "bytes, DER".to_owned(),
        Kind::UpTo(most) => format!("int, 0 to {most}"),
        Kind::Id => "uint64_t".to_owned(),
        Kind::Int => "int".to_owned(),
        Kind::Long => "int64_t".to_owned(),
        Kind::PathOrPem => "string, a path or PEM text, with its NUL".to_owned(),
        Kind::String(_) => "string, with its NUL".to_owned(),
        Kind::Version => "int, 0x0303 or 0x0304".to_owned(),
    }
}

fn when(when: When) -> &'static str {
    match when {
        When::Never => "no",
        When::Fresh => "before connect or listen",
        When::Connected => "when connected, and after the peer has closed",
        When::Any => "any time",
    }
}
