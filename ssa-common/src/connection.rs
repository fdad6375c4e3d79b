//! What is known of a connection: written by the agent before the verdict, read by `getsockopt`,
//! `getpeername` and `getsockname`. A hash map by socket id.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{certificate::Digest, code, pod, socket::Endpoint};

/// Scalar answers, by slot of [`Connection::scalars`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Scalar {
    /// Negotiated version: 0x0303 or 0x0304.
    Version = 0,
    /// 1 if the session was resumed.
    Resumed = 1,
    /// Certificates of the peer's verified chain.
    CertificateCount = 2,
}

/// Text answers, by slot of [`Connection::texts`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Text {
    /// Why the connect failed; empty if it didn't.
    Error = 0,
    /// Negotiated cipher, OpenSSL's name.
    Cipher = 1,
    /// Subject of the peer's certificate, RFC 2253.
    Identity = 2,
    /// The application protocol that was chosen; none if there is none.
    Alpn = 3,
    /// The name that a client asked for (SNI); none if it named none.
    Sni = 4,
}

/// Slots of [`Connection::scalars`].
pub const SCALARS: usize = 4;
/// Slots of [`Connection::texts`].
pub const TEXTS: usize = 8;
/// Room for all texts, in bytes; a power of two, so that the hooks can bound an index by a mask.
pub const TEXT_BYTES: usize = 1024;

/// Where a text stands in [`Connection::bytes`].
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Span {
    pub start: u16,
    /// Length with the NUL; zero if there is no such text.
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

/// The answers of one attempt.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// The attempt that these answers are of; those of another are ignored.
    pub attempt: u32,
    /// How far the attempt is; other answers count only if it is [`State::SECURED`], but for [`Text::Error`].
    pub state: State,
    /// Address of the peer leg on this side.
    pub local: Endpoint,
    /// Address of the peer, which the agent connected to.
    pub peer: Endpoint,
    pub scalars: [i64; SCALARS],
    pub texts: [Span; TEXTS],
    /// SHA-256 of the peer's certificate.
    pub sha256: Digest,
    /// The verified chain, in the map of chains.
    pub chain: Digest,
    pub bytes: [u8; TEXT_BYTES],
}

/// There was no room for a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoRoom;

impl Connection {
    /// Answers of `attempt` before anything is known.
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

    /// Adds `text` (without a NUL; one is added).
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
}
