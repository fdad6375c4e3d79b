//! The table of options as the hooks read it: one small record per number.

use crate::{
    code,
    uapi::{Kind, OPTIONS, Place, When},
};

/// Row of the table: what the hooks need of one option. Every field is a `u8`, so that a row is one load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct OptionRow {
    /// Phases in which it may be set.
    pub set: When,
    /// Phases in which it may be read.
    pub get: When,
    /// Place where the value lives.
    pub place: PlaceId,
    /// Slot of a setting or of an answer; of a certificate: its index.
    pub slot: u8,
    /// Size of the value, in bytes; zero for text.
    pub size: u8,
    /// Valid values, of an option that is a number.
    pub values: ValueRange,
    /// Highest valid value, for [`ValueRange::UP_TO`].
    pub most: u8,
    /// Reserved; always zero.
    pub reserved: u8,
}

code! {
    /// Range of the valid values of an option that is a number.
    ValueRange(u8) {
        /// Every number.
        ANY = 0,
        /// From 0 to the row's highest.
        UP_TO = 1,
        /// TLS versions that are not refused.
        VERSION = 2,
        /// From 0 on.
        NOT_NEGATIVE = 3,
    }
}

code! {
    /// Number of a [`Place`], without what that carries: a slot is a field of the row.
    PlaceId(u8) {
        /// No option has this number.
        NOWHERE = 0,
        /// [`Place::Blob`]
        BLOB = 1,
        /// [`Place::Context`]
        CONTEXT = 2,
        /// [`Place::Answer`]
        ANSWER = 3,
        /// [`Place::AnswerText`]
        ANSWER_TEXT = 4,
        /// [`Place::Error`]
        ERROR = 5,
        /// [`Place::HostName`]
        HOST_NAME = 6,
        /// [`Place::Id`]
        ID = 7,
        /// [`Place::Setting`]
        SETTING = 8,
        /// [`Place::State`]
        STATE = 9,
        /// [`Place::AnswerSha256`]
        ANSWER_SHA256 = 10,
        /// [`Place::Alpn`]
        ALPN = 11,
        /// [`Place::Certificate`]
        CERTIFICATE = 12,
        /// [`Place::Chain`]
        CHAIN = 13,
        /// [`Place::CipherOff`]
        CIPHER_OFF = 14,
        /// [`Place::CipherOn`]
        CIPHER_ON = 15,
        /// [`Place::Ciphers`]
        CIPHERS = 16,
    }
}

/// Lowest option number, at index 0 of [`TABLE`].
pub const FIRST: i32 = 85;
/// Rows of [`TABLE`]: a power of two, so that the hooks can bound an index by a mask.
pub const ROWS: usize = 128;

/// Rows by `number - FIRST`; unknown numbers have a row that offers nothing.
pub static TABLE: [OptionRow; ROWS] = table();

/// Makes a row for each number of each option.
const fn table() -> [OptionRow; ROWS] {
    const NOTHING: OptionRow = OptionRow {
        set: When::Never,
        get: When::Never,
        place: PlaceId::NOWHERE,
        slot: 0,
        size: 0,
        values: ValueRange::ANY,
        most: 0,
        reserved: 0,
    };
    let mut table = [NOTHING; ROWS];
    let mut index = 0;
    while index < OPTIONS.len() {
        let option = &OPTIONS[index];
        let (place, slot) = match option.place {
            Place::Alpn => (PlaceId::ALPN, 0),
            Place::Blob => (PlaceId::BLOB, 0),
            Place::Certificate => (PlaceId::CERTIFICATE, 0),
            Place::Chain => (PlaceId::CHAIN, 0),
            Place::CipherOff => (PlaceId::CIPHER_OFF, 0),
            Place::CipherOn => (PlaceId::CIPHER_ON, 0),
            Place::Ciphers => (PlaceId::CIPHERS, 0),
            Place::Context => (PlaceId::CONTEXT, 0),
            Place::Answer(scalar) => (PlaceId::ANSWER, scalar as u8),
            Place::AnswerSha256 => (PlaceId::ANSWER_SHA256, 0),
            Place::AnswerText(text) => (PlaceId::ANSWER_TEXT, text as u8),
            Place::Error => (PlaceId::ERROR, 0),
            Place::HostName => (PlaceId::HOST_NAME, 0),
            Place::Id => (PlaceId::ID, 0),
            Place::Setting(setting) => (PlaceId::SETTING, setting as u8),
            Place::State => (PlaceId::STATE, 0),
        };
        let (size, values, most) = match option.kind {
            Kind::Bool => (4, ValueRange::UP_TO, 1),
            Kind::UpTo(most) => (4, ValueRange::UP_TO, most),
            Kind::Int => (4, ValueRange::ANY, 0),
            Kind::Version => (4, ValueRange::VERSION, 0),
            Kind::Id => (8, ValueRange::ANY, 0),
            Kind::Long => (8, ValueRange::NOT_NEGATIVE, 0),
            Kind::Bytes(bytes) => (bytes as u8, ValueRange::ANY, 0),
            Kind::Cipher | Kind::Ciphers | Kind::Der | Kind::PathOrPem | Kind::String(_) => (0, ValueRange::ANY, 0),
        };
        let mut number = 0;
        while number < option.count {
            table[(option.number + number - FIRST) as usize] = OptionRow {
                set: option.set,
                get: option.get,
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
    /// True if a direction with this `when` is offered at all; else it is `ENOPROTOOPT`.
    #[inline(always)]
    pub const fn offers(when: When) -> bool {
        !matches!(when, When::Never)
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
                assert_eq!((row.set, row.get), (option.set, option.get), "{}", option.name);
            }
        }
        assert_eq!(TABLE[(101 - FIRST) as usize].place, PlaceId::NOWHERE);
    }
}
