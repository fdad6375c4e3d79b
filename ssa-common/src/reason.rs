//! Why a hook refused, in words: what `TLS_ERROR` says before the agent is asked.

/// A refusal by a hook itself. Zero stands for "none" in a socket's state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Reason {
    AgentNotRunning = 1,
    BadValue = 2,
    ContextFrozen = 3,
    ContextUnknown = 4,
    FastOpen = 5,
    NoHostName = 6,
    NoRoom = 7,
    NotOffered = 8,
    Policy = 9,
    WrongPhase = 10,
    NoAnswer = 11,
    Kernel = 12,
    Reset = 13,
    CipherUnknown = 14,
}

/// The texts by number, each with its NUL; the first is that of "none".
const TEXTS: [&str; 15] = [
    "\0",
    "the TLS agent is not running\0",
    "the option's value or length is not valid\0",
    "the settings are frozen: the context is shared (TLS_CONTEXT)\0",
    "no such context for this user, service and namespace (TLS_CONTEXT)\0",
    "TCP Fast Open can't be used on a TLS socket\0",
    "no host name is set: TLS needs one to verify the peer (TLS_HOSTNAME)\0",
    "out of room: too many TLS sockets, or the agent is behind\0",
    "the option is unknown or not offered in this direction\0",
    "weaker than the administrator's policy allows\0",
    "the option can't be set or read in the socket's present phase (TLS_STATE)\0",
    "the TLS agent gave no answer in time, or the program did not wait for it\0",
    "the kernel itself refused to connect: see the errno of connect\0",
    "the connection was reset: the TLS agent has ended\0",
    "no such cipher, or it is not on the list (TLS_TRUSTED_CIPHERS)\0",
];

/// Room for a text with its NUL, in bytes. A power of two, so that the hooks can bound an index by a mask.
pub const TEXT_BYTES: usize = 128;

/// The texts in one block, as the hooks read them: `TEXT_BYTES` each, padded with NULs.
pub static TEXT_TABLE: [[u8; TEXT_BYTES]; 16] = table();

/// Their lengths with the NUL, in bytes.
pub static TEXT_LENGTHS: [u32; 16] = {
    let mut lengths = [1; 16];
    let mut row = 0;
    while row < TEXTS.len() {
        lengths[row] = TEXTS[row].len() as u32;
        row += 1;
    }
    lengths
};

const fn table() -> [[u8; TEXT_BYTES]; 16] {
    let mut table = [[0; TEXT_BYTES]; 16];
    let mut row = 0;
    while row < TEXTS.len() {
        let text = TEXTS[row].as_bytes();
        let mut column = 0;
        while column < text.len() {
            table[row][column] = text[column];
            column += 1;
        }
        row += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_ends_with_one_nul_and_fits() {
        for text in TEXTS {
            assert_eq!(text.find('\0'), Some(text.len() - 1), "{text:?}");
            assert!(text.len() <= TEXT_BYTES, "{text:?}");
        }
        assert_eq!(Reason::CipherUnknown as usize, TEXTS.len() - 1);
    }
}
