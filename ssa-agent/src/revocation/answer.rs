//! Answers of an issuer's servers about a certificate, and for how long they count.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::asn1::{Asn1Time, Asn1TimeRef};

/// Source of an answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Source {
    /// Answer that was cached by this agent, in memory or on disk.
    Cached,
    /// List of revoked certificates (CRL, RFC 5280, section 5).
    Crl,
    /// OCSP responder (RFC 6960).
    Ocsp,
    /// OCSP response that the peer has stapled (RFC 6066, section 8).
    Stapled,
}

impl Source {
    /// Value of the label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Crl => "crl",
            Self::Ocsp => "ocsp",
            Self::Stapled => "stapled",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cached => "cached",
            Self::Crl => "CRL",
            Self::Ocsp => "OCSP",
            Self::Stapled => "stapled",
        })
    }
}

/// Status of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// The certificate is not revoked.
    Good,
    /// The certificate is revoked, with when and why in words, or an empty text.
    Revoked(String),
}

/// Answer that was verified: somebody who may say so has said it, of this certificate, and it is neither old nor of the
/// future.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Status that it gives.
    pub(super) status: Status,
    /// Source that it came from.
    pub(super) source: Source,
    /// `thisUpdate` of the response or the list, in seconds since 1970. Of two answers the later is right.
    pub(super) this_update: u64,
    /// Time at which it was taken in, in seconds since 1970.
    pub(super) received_at: u64,
    /// Time until which it counts, by `nextUpdate` and [`LONGEST`], in seconds since 1970.
    pub(super) expires_at: u64,
    /// OCSP response in DER; none if a list has said it, or if it is kept elsewhere.
    pub(super) ocsp: Option<Arc<[u8]>>,
}

/// Difference that clocks may have.
pub(super) const LEEWAY: Duration = Duration::from_secs(300);
/// Longest time for which an answer is kept.
pub(super) const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// Time for which an answer counts that does not say (RFC 6960, section 4.2.2.1: newer ones are there at any time).
const UNSAID: Duration = Duration::from_secs(300);

impl Answer {
    /// Makes an answer with its `thisUpdate`, and the time until `nextUpdate`, if it has one.
    pub(super) fn new(
        status: Status,
        source: Source,
        (this_update, next): (&Asn1TimeRef, Option<Duration>),
        ocsp: Option<Arc<[u8]>>,
    ) -> Self {
        let received_at = now();
        let expires_at = received_at + next.unwrap_or(UNSAID).min(LONGEST).as_secs();
        Self { status, source, this_update: seconds(this_update).unwrap_or(0), received_at, expires_at, ocsp }
    }

    /// Whether it is right where another answer is known: it was said later, or at the same time and is the worse.
    pub(super) fn supersedes(&self, known: &Self) -> bool {
        !known.is_valid()
            || self.this_update > known.this_update
            || (self.this_update == known.this_update && known.status == Status::Good)
    }

    /// Whether it still counts.
    pub(super) fn is_valid(&self) -> bool {
        now() < self.expires_at
    }

    /// Whether a newer one should be asked for: a quarter of its time is left.
    pub(super) fn needs_refresh(&self) -> bool {
        now() >= self.received_at + (self.expires_at - self.received_at) / 4 * 3
    }
}

/// Current time, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Converts a time to seconds since 1970; none if it is no time, or before that.
pub(super) fn seconds(time: &Asn1TimeRef) -> Option<u64> {
    let since = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
    u64::try_from(i64::from(since.days) * 86_400 + i64::from(since.secs)).ok()
}

/// Time left until a point of time; none if it has passed, or is no time.
pub(super) fn until(time: &Asn1TimeRef) -> Option<Duration> {
    seconds(time)?.checked_sub(now()).filter(|left| *left > 0).map(Duration::from_secs)
}

/// Whether a time is in the future, by more than clocks may differ; or no time.
pub(super) fn is_ahead(time: &Asn1TimeRef) -> bool {
    seconds(time).is_none_or(|at| at > now() + LEEWAY.as_secs())
}

/// Whether a time has passed, by more than clocks may differ; or no time.
pub(super) fn is_past(time: &Asn1TimeRef) -> bool {
    seconds(time).is_none_or(|at| at + LEEWAY.as_secs() < now())
}

/// Name of a reason for revocation (RFC 5280, section 5.3.1).
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

/// Words when and why a certificate was revoked.
pub(super) fn revoked(on: Option<&Asn1TimeRef>, code: i64) -> Status {
    let on = on.map(|on| format!(" on {}", crate::tls::date_text(on))).unwrap_or_default();
    let why = reason(code).map(|reason| format!(" ({reason})")).unwrap_or_default();
    Status::Revoked(format!("{on}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_as_long_as_they_say_and_seven_days_at_most() {
        let of = |next| Answer::new(Status::Good, Source::Ocsp, (&Asn1Time::from_unix(1000).unwrap(), next), None);
        let (short, long, unsaid) = (of(Some(Duration::from_secs(100))), of(Some(LONGEST * 2)), of(None));
        assert_eq!(
            [short.expires_at - short.received_at, long.expires_at - long.received_at],
            [100, LONGEST.as_secs()]
        );
        assert_eq!(unsaid.expires_at - unsaid.received_at, UNSAID.as_secs());
        assert!(short.is_valid() && !short.needs_refresh());
        assert!(
            Answer { received_at: short.received_at - 80, expires_at: short.expires_at - 80, ..short.clone() }
                .needs_refresh()
        );
        assert!(!of(Some(Duration::ZERO)).is_valid());
    }

    #[test]
    fn later_answer_is_right_and_of_two_at_once_the_worse() {
        let of = |status, said: i64| {
            let said = Asn1Time::from_unix(said).unwrap();
            Answer::new(status, Source::Ocsp, (&said, Some(Duration::from_secs(100))), None)
        };
        let (good, revoked) = (|said| of(Status::Good, said), |said| of(Status::Revoked(String::new()), said));
        assert!(!good(1000).supersedes(&revoked(1000)) && revoked(1000).supersedes(&good(1000)));
        assert!(!good(999).supersedes(&revoked(1000)) && good(1001).supersedes(&revoked(1000)));
        assert!(!revoked(999).supersedes(&good(1000)) && good(1000).supersedes(&good(1000)));
    }

    #[test]
    fn clocks_may_differ_by_five_minutes() {
        let at = |seconds: i64| Asn1Time::from_unix(i64::try_from(now()).unwrap() + seconds).unwrap();
        assert!(!is_ahead(&at(200)) && is_ahead(&at(400)));
        assert!(!is_past(&at(-200)) && is_past(&at(-400)));
        assert!(until(&at(-1)).is_none() && until(&at(50)).is_some());
    }
}
