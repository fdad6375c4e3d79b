//! `[[profile]]` of the configuration: what is different for some applications, and for which.

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    application::Application,
    policy::Policy,
    sections::{CredentialsKeys, ProfileLimits, RevocationKeys, SessionsKeys, TimeKeys, TlsKeys, TrustKeys},
    value::User,
};

/// Profiles refine all this for some applications. A profile is for applications that meet all of `executable`, `unit`, `cgroup`
/// and `user` that it has. It must have one of them.
///
/// Where several are for an application, each adds its keys to those before it: first by user, then by cgroup, by unit, and by
/// executable; of two alike, the later. It may have the sections above but `[cache]`, `[control]` and `[monitor]`, and in
/// `[limits]` only `sockets_per_user`.
///
/// ```toml
/// [[profile]]
/// name = "payments"
/// unit = "payments.service"
/// [profile.tls]
/// version_min = "1.3"
/// [profile.trust]
/// system = false
/// files = ["/etc/ssa/payments-ca.pem"]
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The name of the profile in messages and rules. It must be there.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// The application's executable: its absolute path, as `/proc/PID/exe` shows it.
    pub(crate) executable: Option<PathBuf>,
    /// A systemd unit, by its whole name, such as `nginx.service`: a part of the path of the application's cgroup.
    pub(super) unit: Option<String>,
    /// A cgroup, by its path below the mount, and all below it.
    pub(super) cgroup: Option<PathBuf>,
    /// A user, by uid or name: the real one of the application.
    #[serde(default)]
    #[schemars(schema_with = "super::value::number_or_name")]
    pub(crate) user: Option<User>,
    /// Keys of `[profile.tls]`, which override those of `[tls]`.
    #[serde(default)]
    pub(super) tls: TlsKeys,
    /// Keys of `[profile.trust]`, which override those of `[trust]`.
    #[serde(default)]
    pub(super) trust: TrustKeys,
    /// Keys of `[profile.revocation]`, which override those of `[revocation]`.
    #[serde(default)]
    pub(super) revocation: RevocationKeys,
    /// Keys of `[profile.sessions]`, which override those of `[sessions]`.
    #[serde(default)]
    pub(super) sessions: SessionsKeys,
    /// Keys of `[profile.time]`, which override those of `[time]`.
    #[serde(default)]
    pub(super) time: TimeKeys,
    /// Keys of `[profile.credentials]`, which override those of `[credentials]`.
    #[serde(default)]
    pub(super) credentials: CredentialsKeys,
    /// Keys of `[profile.limits]`, which override those of `[limits]`.
    #[serde(default)]
    pub(super) limits: ProfileLimits,
}

impl Profile {
    /// Overrides what the profile has keys for.
    pub(super) fn refine(&self, policy: &mut Policy) {
        let Self { tls, trust, revocation, sessions, time, credentials, .. } = self;
        policy.refine(tls, trust, revocation, sessions, time, credentials);
        if let Some(most) = self.limits.sockets_per_user {
            policy.limits.sockets_per_user = most.into();
        }
    }

    /// What makes no sense, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.executable.is_none() && self.cgroup.is_none() && self.unit.is_none() && self.user.is_none() {
            return Err("it is for nobody: give it an `executable`, `unit`, `cgroup` or `user`".to_owned());
        }
        if self.executable.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("`executable` must be an absolute path".to_owned());
        }
        if self.unit.as_ref().is_some_and(|unit| !unit.contains('.') || unit.contains('/')) {
            return Err("`unit` must be a unit's whole name, such as \"nginx.service\"".to_owned());
        }
        Ok(())
    }
}

impl Profile {
    /// Whether it is for applications of this cgroup, whatever else it asks.
    pub(crate) fn takes_cgroup(&self, cgroup: &Path) -> bool {
        let below = |path: &PathBuf| {
            let path = Path::new("/").join(path.strip_prefix("/").unwrap_or(path));
            cgroup.starts_with(path)
        };
        let in_unit = |unit: &String| cgroup.components().any(|part| part == Component::Normal(unit.as_ref()));
        self.cgroup.as_ref().is_none_or(below) && self.unit.as_ref().is_none_or(in_unit)
    }

    /// Whether it is for applications of every cgroup.
    pub(crate) fn takes_any_cgroup(&self) -> bool {
        self.cgroup.is_none() && self.unit.is_none()
    }

    /// Whether it is for applications of a user, by real uid.
    pub(crate) fn takes_user(&self, uid: u32) -> bool {
        self.user.is_none_or(|user| user.0 == uid)
    }

    /// Whether it is for an application.
    pub(super) fn takes(&self, application: &Application) -> bool {
        let takes_executable =
            self.executable.as_ref().is_none_or(|path| application.executable.as_ref() == Some(path));
        takes_executable && self.takes_cgroup(&application.cgroup) && self.takes_user(application.uid)
    }

    /// The greater, the more specific: by executable, then unit, then depth of the cgroup, then user.
    pub(super) fn rank(&self) -> (bool, bool, usize, bool) {
        let depth = self.cgroup.as_ref().map_or(0, |path| path.components().count());
        (self.executable.is_some(), self.unit.is_some(), depth, self.user.is_some())
    }

    /// Whom it is for, in words.
    pub(crate) fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(path) = &self.executable {
            parts.push(format!("executable = {}", path.display()));
        }
        if let Some(unit) = &self.unit {
            parts.push(format!("unit = {unit}"));
        }
        if let Some(path) = &self.cgroup {
            parts.push(format!("cgroup = {}", path.display()));
        }
        if let Some(user) = self.user {
            parts.push(format!("user = {}", user.0));
        }
        parts.join(", ")
    }
}
