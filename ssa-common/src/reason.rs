//! Reasons of the hooks' own refusals, in words: what `TLS_ERROR` says before the agent is asked.

/// Reason of a refusal by a hook itself ([`crate::socket::Socket::reason`]). Zero stands for "none" in a socket's
/// state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Reason {
    /// No agent lives, or it has not said yet what is allowed: `ENOTCONN`.
    AgentNotRunning = 1,
    /// The value or length is not valid: `EINVAL`.
    BadValue = 2,
    /// The context is shared, and its settings frozen: `EOPNOTSUPP`.
    ContextFrozen = 3,
    /// The context does not exist, or is of another user, service or namespace: `EINVAL`; or it is gone: `EBADFD`.
    ContextUnknown = 4,
    /// TCP Fast Open is on: `EOPNOTSUPP`.
    FastOpen = 5,
    /// No host name is set: `EPROTO`.
    NoHostName = 6,
    /// A map or ring buffer is full, a limit is reached, or no id is left: `ENOBUFS`.
    NoRoom = 7,
    /// The option is unknown, or not offered in this direction: `ENOPROTOOPT`.
    NotOffered = 8,
    /// The value is weaker than the administrator allows: `EPROTO`.
    Policy = 9,
    /// The phase does not allow it: `EOPNOTSUPP`.
    WrongPhase = 10,
    /// The attempt ended without an answer of the agent.
    NoAnswer = 11,
    /// The kernel refused to connect before a SYN was sent.
    Kernel = 12,
    /// The connection was reset, as the agent has ended.
    Reset = 13,
    /// No cipher suite of that name, or it is not on the list: `EINVAL`.
    CipherUnknown = 14,
}

/// Texts by number, each with its NUL; the first is that of "none".
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
    "the TLS agent gave no answer in time, or the application did not wait for it\0",
    "the kernel itself refused to connect: see the errno of connect\0",
    "the connection was reset: the TLS agent has ended\0",
    "no such cipher, or it is not on the list (TLS_TRUSTED_CIPHERS)\0",
];

/// Room for a text with its NUL, in bytes. A power of two, so that the hooks can bound an index by a mask.
pub const TEXT_BYTES: usize = 128;

/// Texts in one block, as the hooks read them: `TEXT_BYTES` each, padded with NULs.
pub static TEXT_TABLE: [[u8; TEXT_BYTES]; 16] = table();

/// Lengths of the texts with their NUL, in bytes.
pub static TEXT_LENGTHS: [u32; 16] = {
    let mut lengths = [1; 16];
    let mut row = 0;
    while row < TEXTS.len() {
        lengths[row] = TEXTS[row].len() as u32;
        row += 1;
    }
    lengths
};

/// Copies the texts into their rows.
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
