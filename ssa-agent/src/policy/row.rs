//! A policy as a row of the hooks' map: defaults and limits of each option, and the cipher suites that may be set.

use ssa_common::{
    context::{SETTINGS, Setting},
    policy::Policy as Row,
    uapi::{TLS_1_2, TLS_1_3},
};

use super::{
    file::File,
    policy::Policy,
    sections::{Revocation, SESSION_SECONDS},
    value::Version,
};
use crate::tls;

/// Lets a row allow what another one allows, too.
pub(crate) fn loosen(row: &mut Row, other: &Row) {
    for slot in 0..SETTINGS {
        row.least[slot] = row.least[slot].min(other.least[slot]);
        row.most[slot] = row.most[slot].max(other.most[slot]);
    }
    row.own_trust |= other.own_trust;
    for (mine, others) in row.allowed.0.iter_mut().zip(other.allowed.0) {
        *mine |= others;
    }
    row.sockets_per_user = row.sockets_per_user.max(other.sockets_per_user);
}

/// The row of applications for which these profiles are, as far as cgroup and user say. Profiles by
/// executable may be for them or not: what any of these allows is left to `connect`.
pub(crate) fn row(file: &File, profiles: &[usize]) -> Row {
    let by_executable = |index: &usize| file.profiles[*index].executable.is_some();
    let sure = file.ranked_among(profiles, |index| !by_executable(index));
    let mut row = exact(&file.policy(&sure));
    for one in profiles.iter().filter(|index| by_executable(index)) {
        let with = file.ranked_among(profiles, |index| !by_executable(index) || index == one);
        loosen(&mut row, &exact(&file.policy(&with)));
    }
    row
}

/// A policy as the hooks check it.
pub(crate) fn exact(policy: &Policy) -> Row {
    let number = |version| match version {
        Version::Tls12 => TLS_1_2,
        Version::Tls13 => TLS_1_3,
    };
    let (min, max) = (number(policy.tls.version_min), number(policy.tls.version_max));
    let reuse = i64::from(policy.sessions.reuse);
    let Revocation { checks, stapled, ocsp, crl, cached, .. } = policy.revocation;
    let [checks, stapled, ocsp, crl, cached] = [checks, stapled, ocsp, crl, cached].map(i64::from);
    // Where no answer is let be, an application that turns ways off would turn all of it off.
    let ways = if policy.revocation.soft_fail { [stapled, ocsp, crl, cached] } else { [0; 4] };
    let seconds = |seconds: Option<u64>| seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let longest = seconds(policy.sessions.lifetime_seconds);
    let mut row = Row {
        defaults: [0; SETTINGS],
        least: [0; SETTINGS],
        most: [0; SETTINGS],
        sockets_per_user: policy.limits.sockets_per_user,
        sockets: policy.limits.sockets,
        own_trust: u32::from(policy.trust.applications_may_bring_cas),
        reserved: 0,
        allowed: tls::cipher_set(policy.suites()),
        ciphers: tls::cipher_list(policy.usable_suites()),
    };
    for (setting, default, least, most) in [
        (Setting::SessionReuse, reuse, 0, reuse),
        (Setting::VersionMin, min, min, max),
        (Setting::VersionMax, max, min, max),
        (Setting::SessionTtl, longest.unwrap_or(SESSION_SECONDS.cast_signed()), 0, longest.unwrap_or(i64::MAX)),
        (Setting::PeerAuth, 0, 0, 2),
        (Setting::Stapling, 0, 0, 1),
        (Setting::RevocationChecks, checks, checks, 1),
        (Setting::StapledChecks, stapled, ways[0], stapled),
        (Setting::OcspChecks, ocsp, ways[1], ocsp),
        (Setting::CrlChecks, crl, ways[2], crl),
        (Setting::CachedChecks, cached, ways[3], cached),
    ] {
        row.defaults[setting as usize] = default;
        row.least[setting as usize] = least;
        row.most[setting as usize] = most;
    }
    row
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::policy::application::Application;

    fn file(text: &str) -> File {
        File::parse(text).unwrap()
    }

    fn application(uid: u32, cgroup: &str, executable: &str) -> Application {
        Application { uid, cgroup: PathBuf::from(cgroup), executable: Some(PathBuf::from(executable)) }
    }

    const PROFILES: &str = r#"
        [[profile]]
        name = "by executable"
        executable = "/usr/bin/old"
        tls.version_min = "1.2"
        [[profile]]
        name = "by cgroup"
        cgroup = "/pay.slice"
        tls.version_min = "1.3"
        sessions.reuse = false
        [[profile]]
        name = "by unit"
        unit = "desk.service"
        sessions.reuse = true
        [[profile]]
        name = "by user"
        user = 7
        tls.alpn = ["h2"]
    "#;

    #[test]
    fn most_specific_profile_wins_and_the_others_are_inherited() {
        let file = file(PROFILES);
        assert_eq!(file.profiles_of(&application(7, "/pay.slice/desk.service", "/usr/bin/old")), [3, 1, 2, 0]);
        assert_eq!(file.profiles_of(&application(8, "/pay.slices", "/usr/bin/new")), [0_usize; 0]);
        let policy = file.policy(&[3, 1, 2, 0]);
        assert_eq!(policy.tls.alpn, ["h2"]);
        assert_eq!(policy.tls.version_min, Version::Tls12, "the executable's own");
        assert!(policy.sessions.reuse, "the unit's own");
    }

    #[test]
    fn executable_is_asked_for_only_where_a_profile_of_that_cgroup_and_user_goes_by_one() {
        let file = file(
            r#"
            [[profile]]
            name = "old"
            executable = "/usr/bin/old"
            unit = "web.service"
            user = 7
            tls.version_min = "1.2"
            "#,
        );
        let asks = |uid, cgroup: &str| {
            file.asks_for_executable(&Application { uid, cgroup: PathBuf::from(cgroup), executable: None })
        };
        assert!(asks(7, "/system.slice/web.service"));
        assert!(!asks(8, "/system.slice/web.service") && !asks(7, "/system.slice/other.service"));
    }

    #[test]
    fn rows_leave_to_connect_what_an_executable_may_be_allowed() {
        let file = file(PROFILES);
        let row = row(&file, &[0, 1]);
        assert_eq!(row.least[Setting::VersionMin as usize], TLS_1_2);
        assert_eq!(row.defaults[Setting::VersionMin as usize], TLS_1_3);
        assert_eq!(row.most[Setting::SessionReuse as usize], 0);
    }
}
