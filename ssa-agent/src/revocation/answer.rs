//! What was said of a certificate, and for how long it counts.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::asn1::{Asn1Time, Asn1TimeRef};

/// Who has answered.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Way {
    Cached,
    Crl,
    Ocsp,
    Stapled,
}

impl Way {
    /// For labels of metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Crl => "crl",
            Self::Ocsp => "ocsp",
            Self::Stapled => "stapled",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cached => "cached",
            Self::Crl => "CRL",
            Self::Ocsp => "OCSP",
            Self::Stapled => "stapled",
        })
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    Good,
    /// With when and why, in words.
    Revoked(String),
}

/// An answer that was verified: somebody who may say so has said it, of this certificate, and it is neither old nor
/// of the future.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(super) status: Status,
    pub(super) way: Way,
    /// When it was taken in, and until when it counts: seconds since 1970.
    pub(super) since: u64,
    pub(super) until: u64,
    /// The OCSP response, in DER.
    pub(super) ocsp: Option<Arc<[u8]>>,
}

/// Clocks may differ by so much.
pub(super) const LEEWAY: Duration = Duration::from_secs(300);
/// No answer is kept for longer.
pub(super) const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// For how long an answer counts that does not say (RFC 6960, section 4.2.2.1: newer ones are there at any time).
const UNSAID: Duration = Duration::from_secs(300);

impl Answer {
    /// That counts until `next`, if it says.
    pub(super) fn new(status: Status, way: Way, next: Option<Duration>, ocsp: Option<Arc<[u8]>>) -> Self {
        let since = now();
        let until = since + next.unwrap_or(UNSAID).min(LONGEST).as_secs();
        Self { status, way, since, until, ocsp }
    }

    pub(super) fn is_valid(&self) -> bool {
        now() < self.until
    }

    /// Whether a newer one should be asked for: a quarter of its time is left.
    pub(super) fn is_ripe(&self) -> bool {
        now() >= self.since + (self.until - self.since) / 4 * 3
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long it is until a time; none if it has passed.
pub(super) fn until(time: &Asn1TimeRef) -> Option<Duration> {
    let left = Asn1Time::days_from_now(0).ok()?.diff(time).ok()?;
    let seconds = i64::from(left.days) * 86_400 + i64::from(left.secs);
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// Whether a time is in the future, by more than clocks may differ.
pub(super) fn is_ahead(time: &Asn1TimeRef) -> bool {
    until(time).is_some_and(|ahead| ahead > LEEWAY)
}

/// Whether a time has passed, by more than clocks may differ.
pub(super) fn is_past(time: &Asn1TimeRef) -> bool {
    let allowed = i64::try_from(now().saturating_sub(LEEWAY.as_secs())).unwrap_or(0);
    Asn1Time::from_unix(allowed).is_ok_and(|allowed| time < &*allowed)
}

/// A reason for revocation (RFC 5280, section 5.3.1), as it is written there.
pub(super) fn reason(code: i64) -> Option<&'static str> {
    Some(match code {
        1 => "keyCompromise",
        2 => "cACompromise",
        3 => "affiliationChanged",
        4 => "superseded",
        5 => "cessationOfOperation",
        6 => "certificateHold",
        9 => "privilegeWithdrawn",
        10 => "aACompromise",
        _ => return None,
    })
}

/// When and why a certificate was revoked, in words.
pub(super) fn revoked(on: Option<&Asn1TimeRef>, code: i64) -> Status {
    let on = on.map(|on| format!(" on {}", crate::tls::certificate::date(on))).unwrap_or_default();
    let why = reason(code).map(|reason| format!(" ({reason})")).unwrap_or_default();
    Status::Revoked(format!("{on}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_as_long_as_they_say_and_seven_days_at_most() {
        let of = |next| Answer::new(Status::Good, Way::Ocsp, next, None);
        let (short, long, unsaid) = (of(Some(Duration::from_secs(100))), of(Some(LONGEST * 2)), of(None));
        assert_eq!([short.until - short.since, long.until - long.since], [100, LONGEST.as_secs()]);
        assert_eq!(unsaid.until - unsaid.since, UNSAID.as_secs());
        assert!(short.is_valid() && !short.is_ripe());
        assert!(Answer { since: short.since - 80, until: short.until - 80, ..short.clone() }.is_ripe());
        assert!(!of(Some(Duration::ZERO)).is_valid());
    }

    #[test]
    fn clocks_may_differ_by_five_minutes() {
        let at = |seconds: i64| Asn1Time::from_unix(i64::try_from(now()).unwrap() + seconds).unwrap();
        assert!(!is_ahead(&at(200)) && is_ahead(&at(400)));
        assert!(!is_past(&at(-200)) && is_past(&at(-400)));
        assert!(until(&at(-1)).is_none() && until(&at(50)).is_some());
    }
}
