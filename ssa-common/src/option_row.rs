//! The table of options as the hooks read it: one small record per number.

use crate::uapi::{Kind, OPTIONS, Place, When};

/// What the hooks know of one option. Every field is a `u8`, so that a row is one load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct OptionRow {
    /// [`When`] it may be set.
    pub set: u8,
    /// [`When`] it may be read.
    pub get: u8,
    /// One of [`place`].
    pub place: u8,
    /// Slot of a setting or of an answer.
    pub slot: u8,
    /// Size of a value, in bytes; zero for text.
    pub size: u8,
    /// Which values are valid: one of [`values`].
    pub values: u8,
    /// The highest valid value, for [`values::UP_TO`].
    pub most: u8,
    /// Reserved; always zero.
    pub reserved: u8,
}

/// Which numbers are valid.
pub mod values {
    pub const ANY: u8 = 0;
    /// From 0 to the rule's highest.
    pub const UP_TO: u8 = 1;
    /// TLS versions that are not refused.
    pub const VERSION: u8 = 2;
    /// None below zero.
    pub const NOT_NEGATIVE: u8 = 3;
}

/// Numbers of [`Place`]'s variants.
pub mod place {
    pub const NOWHERE: u8 = 0;
    pub const BLOB: u8 = 1;
    pub const CONTEXT: u8 = 2;
    pub const ANSWER: u8 = 3;
    pub const ANSWER_TEXT: u8 = 4;
    pub const ERROR: u8 = 5;
    pub const HOST_NAME: u8 = 6;
    pub const ID: u8 = 7;
    pub const SETTING: u8 = 8;
    pub const STATE: u8 = 9;
    pub const ANSWER_SHA256: u8 = 10;
    pub const ALPN: u8 = 11;
    pub const CERTIFICATE: u8 = 12;
    pub const CHAIN: u8 = 13;
    pub const CIPHER_OFF: u8 = 14;
    pub const CIPHER_ON: u8 = 15;
    pub const CIPHERS: u8 = 16;
}

/// The lowest option number, at index 0 of [`TABLE`].
pub const FIRST: i32 = 85;
/// Rows of [`TABLE`]: a power of two, so that the hooks can bound an index by a mask.
pub const ROWS: usize = 128;

/// The rules by `number - FIRST`; unknown numbers have a rule that offers nothing.
pub static TABLE: [OptionRow; ROWS] = table();

const fn table() -> [OptionRow; ROWS] {
    const NOTHING: OptionRow = OptionRow {
        set: 0,
        get: 0,
        place: place::NOWHERE,
        slot: 0,
        size: 0,
        values: values::ANY,
        most: 0,
        reserved: 0,
    };
    let mut table = [NOTHING; ROWS];
    let mut index = 0;
    while index < OPTIONS.len() {
        let option = &OPTIONS[index];
        let (place, slot) = match option.place {
            Place::Alpn => (place::ALPN, 0),
            Place::Blob => (place::BLOB, 0),
            Place::Certificate => (place::CERTIFICATE, 0),
            Place::Chain => (place::CHAIN, 0),
            Place::CipherOff => (place::CIPHER_OFF, 0),
            Place::CipherOn => (place::CIPHER_ON, 0),
            Place::Ciphers => (place::CIPHERS, 0),
            Place::Context => (place::CONTEXT, 0),
            Place::Answer(scalar) => (place::ANSWER, scalar as u8),
            Place::AnswerSha256 => (place::ANSWER_SHA256, 0),
            Place::AnswerText(text) => (place::ANSWER_TEXT, text as u8),
            Place::Error => (place::ERROR, 0),
            Place::HostName => (place::HOST_NAME, 0),
            Place::Id => (place::ID, 0),
            Place::Setting(setting) => (place::SETTING, setting as u8),
            Place::State => (place::STATE, 0),
        };
        let (size, values, most) = match option.kind {
            Kind::Bool => (4, values::UP_TO, 1),
            Kind::UpTo(most) => (4, values::UP_TO, most),
            Kind::Int => (4, values::ANY, 0),
            Kind::Version => (4, values::VERSION, 0),
            Kind::Id => (8, values::ANY, 0),
            Kind::Long => (8, values::NOT_NEGATIVE, 0),
            Kind::Bytes(bytes) => (bytes as u8, values::ANY, 0),
            Kind::Cipher | Kind::Ciphers | Kind::Der | Kind::PathOrPem | Kind::String(_) => (0, values::ANY, 0),
        };
        let mut number = 0;
        while number < option.count {
            table[(option.number + number - FIRST) as usize] = OptionRow {
                set: option.set as u8,
                get: option.get as u8,
                place,
                slot: slot + number as u8,
                size,
                values,
                most,
                reserved: 0,
            };
            number += 1;
        }
        index += 1;
    }
    table
}

impl OptionRow {
    /// Whether a direction with this `when` is offered at all.
    #[inline(always)]
    pub const fn offers(when: u8) -> bool {
        when != When::Never as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_its_row() {
        for option in OPTIONS {
            for number in 0..option.count {
                let row = TABLE[usize::try_from(option.number + number - FIRST).unwrap()];
                assert_eq!((row.set, row.get), (option.set as u8, option.get as u8), "{}", option.name);
            }
        }
        assert_eq!(TABLE[(101 - FIRST) as usize].place, place::NOWHERE);
    }
}
