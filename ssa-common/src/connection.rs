//! Answers of a connection: written by the agent before the verdict, read by `getsockopt`, `getpeername` and
//! `getsockname`. The map `CONNECTIONS`, by socket id.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{certificate::Digest, code, limits::ERROR_BYTES, pod, socket::Endpoint};

/// Scalar answers, by slot of [`Connection::scalars`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Scalar {
    /// Negotiated version: 0x0303 (TLS 1.2) or 0x0304 (TLS 1.3).
    Version = 0,
    /// 1 if the session was resumed.
    Resumed = 1,
    /// Count of certificates in the peer's verified chain; zero if it has shown none.
    CertificateCount = 2,
}

/// Text answers, by slot of [`Connection::texts`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Text {
    /// Cause of a failed connect; none if it didn't fail.
    Error = 0,
    /// Negotiated cipher, OpenSSL's name.
    Cipher = 1,
    /// Subject of the peer's certificate, RFC 2253.
    Identity = 2,
    /// Application protocol that was chosen (RFC 7301); none if there is none.
    Alpn = 3,
    /// Name that a client asked for (SNI, RFC 6066, section 3); none if it named none.
    Sni = 4,
}

/// Slots of [`Connection::scalars`].
pub const SCALARS: usize = 4;
/// Slots of [`Connection::texts`].
pub const TEXTS: usize = 8;
/// Room for all texts, in bytes; a power of two, so that the hooks can bound an index by a mask.
pub const TEXT_BYTES: usize = 1024;

/// Place of a text in [`Connection::bytes`].
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Span {
    /// Index of the first byte.
    pub start: u16,
    /// Length with the NUL, in bytes; zero if there is no such text.
    pub len: u16,
}

code! {
    /// State of an attempt to connect, as the agent last said. Made `PENDING` by the hooks.
    State(u32) {
        /// The agent has not decided.
        PENDING = 0,
        /// The handshake is done and the peer verified.
        SECURED = 1,
        /// The attempt is refused; the text [`Text::Error`] says why.
        REFUSED = 2,
    }
}

/// Answers of one attempt: the value of the map `CONNECTIONS`. Made by `connect` with [`State::PENDING`], replaced
/// whole by the agent, deleted by `close`.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// Attempt that these answers are of ([`crate::socket::Socket::attempt`]); those of another are ignored.
    pub attempt: u32,
    /// State of the attempt; other answers count only if it is [`State::SECURED`], but for [`Text::Error`].
    pub state: State,
    /// Address and port of the peer leg on this side.
    pub local: Endpoint,
    /// Address and port of the peer.
    pub peer: Endpoint,
    /// Answers that are numbers, by [`Scalar`], host byte order.
    pub scalars: [i64; SCALARS],
    /// Places of answers that are texts, by [`Text`].
    pub texts: [Span; TEXTS],
    /// SHA-256 of the peer's certificate in DER; zeros if it has shown none.
    pub sha256: Digest,
    /// Key of the verified chain in the map `CHAINS`; zeros if there is none.
    pub chain: Digest,
    /// Texts, one after the other, each with its NUL.
    pub bytes: [u8; TEXT_BYTES],
}

/// Error: [`Connection::bytes`] has no room for a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoRoom;

impl Connection {
    /// The answers of `attempt` before anything is known.
    pub const fn pending(attempt: u32) -> Self {
        Self {
            attempt,
            state: State::PENDING,
            local: Endpoint::UNSPECIFIED,
            peer: Endpoint::UNSPECIFIED,
            scalars: [0; SCALARS],
            texts: [Span { start: 0, len: 0 }; TEXTS],
            sha256: [0; 32],
            chain: [0; 32],
            bytes: [0; TEXT_BYTES],
        }
    }

    /// Adds as much of `text` as there is room for. A character is kept whole or left out. All texts but
    /// [`Text::Error`] leave room for an error of [`ERROR_BYTES`], which may have to be added after them.
    pub fn push_cut(&mut self, slot: Text, text: &str) {
        let taken = self.texts.iter().map(|span| usize::from(span.start + span.len)).max().unwrap_or(0);
        let room = if slot == Text::Error { TEXT_BYTES } else { TEXT_BYTES - ERROR_BYTES };
        let mut end = text.len().min((room - 1).saturating_sub(taken));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // Only a row that is full to the last byte has no room for the NUL: then there is no text.
        let _full = self.push(slot, &text[..end]);
    }

    /// Appends `text` (without a NUL; one is added). [`NoRoom`] if it does not fit; nothing has changed then.
    pub fn push(&mut self, slot: Text, text: &str) -> Result<(), NoRoom> {
        let start = self.texts.iter().map(|span| span.start + span.len).max().unwrap_or(0);
        let room = self.bytes.get_mut(usize::from(start)..).ok_or(NoRoom)?;
        if text.len() >= room.len() {
            return Err(NoRoom);
        }
        room[..text.len()].copy_from_slice(text.as_bytes());
        room[text.len()] = 0;
        let len = u16::try_from(text.len() + 1).unwrap_or(u16::MAX);
        self.texts[slot as usize] = Span { start, len };
        Ok(())
    }
}

pod!(Connection);

const _: () = assert!(size_of::<Connection>() == 1208);
const _: () = assert!(TEXT_BYTES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_follow_each_other_and_overlong_ones_are_refused() {
        let mut connection = Connection::pending(1);
        connection.push(Text::Error, "why").unwrap();
        connection.push(Text::Cipher, "TLS_X").unwrap();
        assert_eq!(connection.texts[Text::Cipher as usize], Span { start: 4, len: 6 });
        assert_eq!(&connection.bytes[4..10], b"TLS_X\0");
        assert_eq!(connection.push(Text::Cipher, &"x".repeat(TEXT_BYTES)), Err(NoRoom));
    }

    #[test]
    fn texts_at_their_greatest_length_are_cut_to_the_room_that_is_left() {
        let mut connection = Connection::pending(1);
        // What a TLS peer can send at most: ALPN 255, SNI 255, a subject, and an alert's text after all of them.
        for (slot, text) in [
            (Text::Cipher, "x".repeat(64)),
            (Text::Alpn, "h".repeat(255)),
            (Text::Sni, "s".repeat(255)),
            (Text::Identity, "ä".repeat(400)),
            (Text::Error, "e".repeat(255)),
        ] {
            connection.push_cut(slot, &text);
        }
        let identity = connection.texts[Text::Identity as usize];
        let bytes = &connection.bytes[usize::from(identity.start)..usize::from(identity.start + identity.len - 1)];
        assert!(core::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(|letter| letter == 'ä')));
        let last = connection.texts[Text::Error as usize];
        assert_eq!(usize::from(last.len), 256, "why it failed is told in full");
        connection.push_cut(Text::Error, "why");
        assert!(connection.texts.iter().all(|span| usize::from(span.start + span.len) <= TEXT_BYTES));
    }
}
