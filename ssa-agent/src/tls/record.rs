//! TLS records as they travel, for those who look at them without speaking TLS (RFC 8446, section 5.1).

/// Types of records (`ContentType`).
pub(crate) mod content_type {
    /// `change_cipher_spec`, the lowest type; TLS 1.3 sends it for the sake of middleboxes only.
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    /// `handshake`: ClientHello and all that follows it.
    pub(crate) const HANDSHAKE: u8 = 22;
    /// `application_data`, the highest type, and the one that every encrypted record of TLS 1.3 gives as its own.
    pub(crate) const APPLICATION_DATA: u8 = 23;
}

/// Number of bytes by which a ClientHello is known: a record's header, and the type of the first message.
pub(crate) const HELLO_BYTES: usize = 6;

/// Whether these first bytes are, or can still become, a record of the handshake with a ClientHello in it (RFC 8446,
/// sections 5.1 and 4).
pub(crate) fn may_be_hello(bytes: &[u8]) -> bool {
    let fits = |(at, byte): (usize, &u8)| match at {
        0 => *byte == content_type::HANDSHAKE,
        1 => *byte == 3,
        2 => *byte <= 4,
        5 => *byte == 1,
        _ => true,
    };
    bytes.iter().take(HELLO_BYTES).enumerate().all(fits)
}

/// Whether these first bytes begin with a ClientHello.
pub(crate) fn is_client_hello(bytes: &[u8]) -> bool {
    bytes.len() >= HELLO_BYTES && may_be_hello(bytes)
}

/// Length of a record's header in bytes: type, version, length (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;

/// Longest fragment of a record that any version allows, in bytes (RFC 5246, section 6.2.3).
const FRAGMENT_BYTES: usize = (1 << 14) + 2048;

/// Position of a byte stream in its sequence of records.
#[derive(Default)]
pub(crate) struct Records {
    /// Header that has begun, of which `filled` bytes are there.
    header: [u8; HEADER_BYTES],
    filled: usize,
    /// Bytes of the current fragment that are still to come.
    fragment: usize,
}

impl Records {
    /// Takes the stream's next bytes. False if they are no sequence of records; the stream is not to be asked again
    /// then.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.fragment > 0 {
                let skipped = self.fragment.min(bytes.len());
                self.fragment -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.filled] = *first;
            self.filled += 1;
            bytes = rest;
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                let [kind, major, minor, high, low] = self.header;
                self.fragment = usize::from(u16::from_be_bytes([high, low]));
                if !(content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA).contains(&kind)
                    || major != 3
                    || minor > 4
                    || self.fragment > FRAGMENT_BYTES
                {
                    return false;
                }
            }
        }
        true
    }
}

/// Entry point for fuzzers: a stream is a sequence of records or not, however it is cut.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz_records(bytes: &[u8]) {
    let whole = Records::default().feed(bytes);
    let mut one_by_one = Records::default();
    let all = bytes.iter().all(|byte| one_by_one.feed(&[*byte]));
    assert_eq!(whole, all);
    assert!(!is_client_hello(bytes) || may_be_hello(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_known_by_its_first_bytes() {
        let hello = [22, 3, 1, 2, 0, 1, 0, 1];
        assert!((0..=hello.len()).all(|len| may_be_hello(&hello[..len])));
        assert!(is_client_hello(&hello) && !is_client_hello(&hello[..5]));
        assert!(!may_be_hello(b"GET / HTTP/1.1") && !may_be_hello(&[22, 3, 3, 0, 40, 2]));
    }

    #[test]
    fn row_of_records_is_one_however_it_is_cut() {
        let mut row = Vec::new();
        for (kind, len) in [(22, 512_u16), (20, 1), (23, 0), (23, 16640), (21, 2)] {
            row.extend([kind, 3, 3]);
            row.extend(len.to_be_bytes());
            row.resize(row.len() + usize::from(len), b'G');
        }
        for piece in [1, 2, 5, 7, 1000, row.len()] {
            let mut records = Records::default();
            assert!(row.chunks(piece).all(|bytes| records.feed(bytes)), "{piece}");
            assert!(!records.feed(b"GET / HTTP/1.1"), "{piece}");
        }
        assert!(!Records::default().feed(&[23, 3, 3, 0xff, 0xff]));
    }
}
