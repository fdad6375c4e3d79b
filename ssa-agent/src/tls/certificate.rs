//! Certificates as text: names, dates, and the sentence that `TLS_ERROR` has about one that was refused.

use openssl::{
    asn1::Asn1TimeRef,
    x509::{X509NameRef, X509Ref, X509VerifyResult},
};

const NOT_YET_VALID: i32 = 9;
const HAS_EXPIRED: i32 = 10;
const HOSTNAME_MISMATCH: i32 = 62;
const IP_ADDRESS_MISMATCH: i32 = 64;

/// Words a certificate's refusal for `TLS_ERROR`: OpenSSL's verdict `error` (`X509_verify_cert_error_string(3)`), the
/// subject and issuer of `certificate`, and the dates or hosts that matter. Without a certificate, OpenSSL's words
/// alone.
pub(crate) fn refusal(error: X509VerifyResult, certificate: Option<&X509Ref>) -> String {
    let Some(certificate) = certificate else { return error.error_string().to_owned() };
    let whose = format!(
        "{}, issued by {}",
        distinguished_name(certificate.subject_name()),
        distinguished_name(certificate.issuer_name())
    );
    match error.as_raw() {
        NOT_YET_VALID => format!("certificate not valid before {}: {whose}", date_text(certificate.not_before())),
        HAS_EXPIRED => format!("certificate expired on {}: {whose}", date_text(certificate.not_after())),
        HOSTNAME_MISMATCH | IP_ADDRESS_MISMATCH => {
            format!("certificate is for {}, not for this host: {whose}", hosts(certificate))
        }
        _ => format!("certificate refused: {}: {whose}", error.error_string()),
    }
}

/// Writes a distinguished name as RFC 2253 has it: most specific part first, special characters escaped. `(no name)` if
/// it is empty.
pub(crate) fn distinguished_name(name: &X509NameRef) -> String {
    let mut parts: Vec<String> = name
        .entries()
        .map(|entry| {
            let key = entry.object().nid().short_name().unwrap_or("?");
            let value = entry.data().to_string().unwrap_or_default();
            format!("{key}={}", escaped(&value))
        })
        .collect();
    parts.reverse();
    if parts.is_empty() { "(no name)".to_owned() } else { parts.join(",") }
}

/// Escapes the characters of a value that RFC 2253, section 2.4, reserves.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::new();
    for (at, letter) in value.chars().enumerate() {
        let special = matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (letter == ' ' && (at == 0 || at == last))
            || (letter == '#' && at == 0);
        if special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// Whether a certificate is for a DNS name: literally, or by a wildcard for the first label (RFC 6125,
/// section 6.4.3).
pub(crate) fn covers(certificate: &X509Ref, name: &str) -> bool {
    let rest = name.split_once('.').map(|(_first, rest)| rest);
    certificate.subject_alt_names().into_iter().flatten().any(|alt| {
        alt.dnsname().is_some_and(|pattern| match pattern.strip_prefix("*.") {
            Some(suffix) => rest.is_some_and(|rest| rest.eq_ignore_ascii_case(suffix)),
            None => pattern.eq_ignore_ascii_case(name),
        })
    })
}

/// DNS names and IP addresses of a certificate, four at most, with commas between them.
fn hosts(certificate: &X509Ref) -> String {
    let names: Vec<String> = certificate
        .subject_alt_names()
        .into_iter()
        .flatten()
        .filter_map(|name| {
            let dns = name.dnsname().map(str::to_owned);
            dns.or_else(|| name.ipaddress().map(address))
        })
        .take(4)
        .collect();
    if names.is_empty() { "no host name".to_owned() } else { names.join(", ") }
}

fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(v4).to_string();
    }
    <[u8; 16]>::try_from(bytes).map_or_else(|_length| "?".to_owned(), |v6| std::net::Ipv6Addr::from(v6).to_string())
}

/// Writes a date as `2026-01-02`, from OpenSSL's `Jan  2 03:04:05 2026 GMT`; any other form is left as it is.
pub(crate) fn date_text(time: &Asn1TimeRef) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let text = time.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [month, day, _clock, year, ..] => {
            let number = MONTHS.find(month).map_or(0, |at| at / 3 + 1);
            format!("{year}-{number:02}-{day:0>2}")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;

    use super::*;

    #[test]
    fn special_characters_of_names_are_escaped() {
        assert_eq!(escaped("a, b+c"), "a\\, b\\+c");
        assert_eq!(escaped(" #x "), "\\ #x\\ ");
        assert_eq!(escaped("#x"), "\\#x");
    }

    #[test]
    fn dates_are_written_as_in_iso_8601() {
        assert_eq!(date_text(&Asn1Time::from_unix(1_767_312_000).unwrap()), "2026-01-02");
        assert_eq!(date_text(&Asn1Time::from_unix(0).unwrap()), "1970-01-01");
    }
}
