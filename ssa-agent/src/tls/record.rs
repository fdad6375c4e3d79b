//! Records as they travel, for whoever has to look at them without speaking TLS (RFC 8446, section 5.1).

/// Types of records (`ContentType`).
pub(crate) mod content_type {
    /// The first type there is; gone in TLS 1.3 but for the sake of middleboxes.
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    /// ClientHello and all that follows it.
    pub(crate) const HANDSHAKE: u8 = 22;
    /// The last type there is, and what every encrypted record of TLS 1.3 says that it is.
    pub(crate) const APPLICATION_DATA: u8 = 23;
}

/// Number of bytes by which a ClientHello is known.
pub(crate) const HELLO_BYTES: usize = 6;

/// Whether this is, or can still become, a record of the handshake with a ClientHello in it (RFC 8446, sections 5.1 and 4).
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

/// Whether this begins with a ClientHello.
pub(crate) fn is_client_hello(bytes: &[u8]) -> bool {
    bytes.len() >= HELLO_BYTES && may_be_hello(bytes)
}

/// Bytes before a record's fragment: type, version, length (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;

/// Longest fragment that any version allows (RFC 5246, section 6.2.3).
const FRAGMENT_BYTES: usize = (1 << 14) + 2048;

/// Place of a stream in its row of records.
#[derive(Default)]
pub(crate) struct Records {
    /// The header that has begun, and how much of it is there.
    header: [u8; HEADER_BYTES],
    filled: usize,
    /// What is left of the fragment.
    fragment: usize,
}

impl Records {
    /// Whether a stream that goes on with these bytes is still a row of records.
    pub(crate) fn go_on(&mut self, mut bytes: &[u8]) -> bool {
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

/// Entry point for fuzzers: however a stream is cut, it is a row of records or not.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz_records(bytes: &[u8]) {
    let whole = Records::default().go_on(bytes);
    let mut one_by_one = Records::default();
    let all = bytes.iter().all(|byte| one_by_one.go_on(&[*byte]));
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
            assert!(row.chunks(piece).all(|bytes| records.go_on(bytes)), "{piece}");
            assert!(!records.go_on(b"GET / HTTP/1.1"), "{piece}");
        }
        assert!(!Records::default().go_on(&[23, 3, 3, 0xff, 0xff]));
    }
}
