//! Server names: names and addresses that a peer must prove to have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host name or an IP address, valid for a certificate check. OpenSSL would take several spellings that must not be
/// taken: see [`ServerName::parse`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ServerName {
    /// A host name in lower case, without a dot at the end.
    Dns(String),
    /// An IP address, verified against `iPAddress` of the certificate.
    Ip(IpAddr),
}

/// Error of [`ServerName::parse`]: the text is neither a host name nor an IP address.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither a host name nor an IP address (TLS_HOSTNAME)")]
pub(crate) struct Invalid(String);

impl ServerName {
    /// Parses a name, and checks what the hook could not, and all that it could once more: this is what stands between
    /// an application's text and OpenSSL, for which an empty name means "don't check", and a leading dot "any
    /// subdomain".
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid(text.to_owned());
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().map(|addr| Self::Ip(addr.into())).map_err(|_syntax| invalid());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let labels: Vec<&str> = name.split('.').collect();
        let valid = |label: &&str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > 253 || !labels.iter().all(valid) {
            return Err(invalid());
        }
        if labels.last().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
            // The standard library takes the one usual form only: no leading zeros, no short forms.
            return text.parse::<Ipv4Addr>().map(|addr| Self::Ip(addr.into())).map_err(|_syntax| invalid());
        }
        Ok(Self::Dns(name.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        assert_eq!(ServerName::parse("WWW.Example.org."), Ok(ServerName::Dns("www.example.org".to_owned())));
        assert_eq!(ServerName::parse("127.0.0.1"), Ok(ServerName::Ip(Ipv4Addr::LOCALHOST.into())));
        assert_eq!(ServerName::parse("::1"), Ok(ServerName::Ip(Ipv6Addr::LOCALHOST.into())));
        assert!(ServerName::parse("xn--bcher-kva_1.example").is_ok());
    }

    #[test]
    fn traps_of_the_name_check_are_refused() {
        let long_label = format!("{}.test", "a".repeat(64));
        let long_name = vec!["a".repeat(60); 5].join(".");
        for text in [
            "",
            ".",
            ".test",
            "a..b",
            "*.example",
            "a b",
            " 127.0.0.1",
            "127.0.0.01",
            "127.1",
            "1.2.3.4.",
            "256.1.1.1",
            "1",
            "0x7f.1",
            "::1%lo",
            "a:b",
            "[::1]",
            "ex\0ample",
            "bücher.example",
            &long_label,
            &long_name,
        ] {
            assert!(ServerName::parse(text).is_err(), "{text:?}");
        }
    }
}
