//! Settings of an application and the policy, put together.

use std::{sync::Arc, time::Duration};

use openssl::{ssl::SslContext, x509::X509};
use ssa_common::{
    context::{Context, Setting},
    uapi::{self, OPTIONS, Place},
};
use tokio::sync::OnceCell;

use super::{error::Error, upload::Upload};
use crate::{
    policy::Effective,
    revocation::{Checks, Sources, Stapling},
    sys::as_caller::Read,
    tls::{ClientConfig, Credential, Credentials, Parameters, ServerConfig, Suite, certificates, context},
};

/// Configuration of one connect of an application.
pub(crate) struct ClientSettings {
    /// Configuration of the handshake.
    pub(crate) tls: ClientConfig,
    /// Revocation checks of the peer; none if it is not checked.
    pub(crate) checks: Option<Checks>,
}

/// Configuration of an application's listener.
pub(crate) struct ServerSettings {
    /// Configuration of the handshakes.
    pub(crate) tls: ServerConfig,
    /// Revocation checks of clients' certificates; none if they are not checked, or no client is asked for one.
    pub(crate) checks: Option<Checks>,
    /// OCSP responses that are stapled; none if nothing is.
    pub(crate) stapling: Option<Arc<Stapling>>,
}

/// Settings that two connections must have in common to share sessions.
#[derive(Clone, Default, Eq, PartialEq)]
pub(super) struct SessionKey {
    /// Number of the policy: [`Effective::generation`].
    pub(super) generation: u64,
    /// Lowest and highest version, as on the wire: 0x0303 or 0x0304.
    pub(super) versions: (i64, i64),
    /// Cipher suites, best first.
    pub(super) suites: Vec<Suite>,
    /// Application protocols, as on the wire (RFC 7301).
    pub(super) alpn: Vec<u8>,
}

/// Files of a context under one policy; loaded when the first connection asks.
#[derive(Clone, Default)]
pub(super) struct Loading {
    /// Number of the policy: [`Effective::generation`].
    pub(super) generation: u64,
    /// Result of [`load`], empty until a connection has asked; an error is a text for `TLS_ERROR`. Clones share it.
    pub(super) loaded: Arc<OnceCell<Result<Loaded, String>>>,
}

/// Trust and own credentials of a context, read and parsed.
#[derive(Clone)]
pub(super) struct Loaded {
    /// `SSL_CTX` of clients.
    pub(super) tls: SslContext,
    /// Own certificates with keys: the application's, or else the policy's.
    pub(super) credentials: Arc<[Credential]>,
    /// CAs that the application has brought; none: it has brought none.
    pub(super) trusted: Option<Arc<[X509]>>,
}

/// Value of a numeric setting: the application's, if the policy allows it, or the policy's default. Errors:
/// [`Error::Weaker`].
///
/// The hooks have compared it with what cgroup and user decide. What the executable decides, and what was changed
/// since, is decided here.
pub(super) fn scalar(context: &Context, setting: Setting, effective: &Effective) -> Result<i64, Error> {
    let (slot, row) = (setting as usize, &effective.row);
    if !context.is_set(setting) {
        return Ok(row.defaults[slot]);
    }
    let value = context.scalar(setting);
    if (row.least[slot]..=row.most[slot]).contains(&value) {
        return Ok(value);
    }
    let name = OPTIONS.iter().find(|option| option.place == Place::Setting(setting)).map_or("?", |option| option.name);
    Err(Error::Weaker(format!("{name} is {value:#x}, allowed is {:#x} to {:#x}", row.least[slot], row.most[slot])))
}

/// Revocation checks of peers, as application and policy have them; none if peers are not checked.
pub(super) fn checks(context: &Context, effective: &Effective) -> Result<Option<Checks>, Error> {
    let is_on = |setting| scalar(context, setting, effective).map(|value| value != 0);
    if !is_on(Setting::RevocationChecks)? {
        return Ok(None);
    }
    let sources = Sources {
        stapled: is_on(Setting::StapledChecks)?,
        ocsp: is_on(Setting::OcspChecks)?,
        crl: is_on(Setting::CrlChecks)?,
        cached: is_on(Setting::CachedChecks)?,
    };
    Ok(Some(Checks { sources, policy: effective.policy.revocation.clone() }))
}

/// Time for which sessions may be resumed; none if they may not.
pub(super) fn session_ttl(context: &Context, effective: &Effective) -> Result<Option<Duration>, Error> {
    let ttl = Duration::from_secs(scalar(context, Setting::SessionTtl, effective)?.unsigned_abs());
    let reuse = scalar(context, Setting::SessionReuse, effective)? != 0 && !ttl.is_zero();
    Ok(reuse.then_some(ttl))
}

/// Builds the key of a context's sessions from its settings and the policy.
pub(super) fn session_key(context: &Context, effective: &Effective) -> Result<SessionKey, Error> {
    let scalar = |setting| scalar(context, setting, effective);
    let versions = (scalar(Setting::VersionMin)?, scalar(Setting::VersionMax)?);
    let alpn = match context.alpn.as_str() {
        Some(list) => wire(list.split(',')),
        None => wire(effective.policy.tls.alpn.iter().map(String::as_str)),
    };
    Ok(SessionKey { generation: effective.generation, versions, suites: suites(context, effective)?, alpn })
}

/// Cipher suites of the application, best first, or else the policy's. Errors: [`Error::Weaker`] if the policy does not
/// allow one of them.
pub(super) fn suites(context: &Context, effective: &Effective) -> Result<Vec<Suite>, Error> {
    if context.ciphers_set == 0 {
        return Ok(effective.policy.usable_suites());
    }
    let allowed = |suite: &Suite| effective.row.allowed.has(suite.number());
    if let Some(suite) = Suite::all().find(|suite| context.asked.has(suite.number()) && !allowed(suite)) {
        return Err(Error::Weaker(format!("{} is no allowed cipher suite", suite.name())));
    }
    Ok(context.ciphers.numbers().filter_map(Suite::numbered).filter(allowed).collect())
}

/// Parses all certificates and keys that an application has brought, once they are read; the last set of trusted
/// certificates counts. Errors are texts for `TLS_ERROR`.
pub(super) async fn load(effective: &Effective, uploads: &[Upload]) -> Result<Loaded, String> {
    let mut trusted = None;
    let mut credentials = Credentials::default();
    let last_trust = uploads.iter().rposition(|upload| upload.option == uapi::TLS_TRUSTED_PEER_CERTIFICATES);
    for (index, upload) in uploads.iter().enumerate() {
        if upload.option == uapi::TLS_TRUSTED_PEER_CERTIFICATES && Some(index) != last_trust {
            continue;
        }
        let mut read = upload.read.clone();
        let read = read.wait_for(Option::is_some).await.map_err(|_gone| "reading was given up".to_owned())?.clone();
        let of_option = |text: String| {
            let name = uapi::option(upload.option).map_or("?", |option| option.name);
            format!("{name}: {text}")
        };
        let Read { files, ocsp, .. } = read.unwrap_or_else(|| Err("nothing was read".to_owned())).map_err(of_option)?;
        // A file need not end with a line's end.
        let pem = files.join(&b'\n');
        match upload.option {
            uapi::TLS_TRUSTED_PEER_CERTIFICATES => trusted = Some(certificates(&pem).map_err(of_option)?),
            uapi::TLS_CERTIFICATE_CHAIN => credentials.add_chain(&pem, ocsp).map_err(of_option)?,
            uapi::TLS_PRIVATE_KEY => credentials.add_key(&pem).map_err(of_option)?,
            _ => return Err(of_option("the agent does not know this option".to_owned())),
        }
    }
    let own: Arc<[Credential]> = credentials.finish()?.into();
    let credentials = if own.is_empty() { Arc::clone(&effective.credentials) } else { own };
    let tls = match trusted.clone() {
        None => effective.tls.clone(),
        Some(trusted) => {
            context(&Parameters::from(&effective.policy), Some(trusted)).map_err(|error| error.to_string())?
        }
    };
    Ok(Loaded { tls, credentials, trusted: trusted.map(Into::into) })
}

/// Encodes a list of protocols as ClientHello has it: each with its length before it.
fn wire<'a>(protocols: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let protocols = protocols.filter(|protocol| !protocol.is_empty());
    protocols.flat_map(|protocol| u8::try_from(protocol.len()).into_iter().chain(protocol.bytes())).collect()
}

#[cfg(test)]
mod tests {
    use ssa_common::uapi::{TLS_1_2, TLS_1_3};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::policy::{Policy, Version};

    fn set(context: &mut Context, setting: Setting, value: i64) {
        context.scalars[setting as usize] = value;
        context.scalars_set |= 1 << setting as u32;
    }

    fn strict() -> Effective {
        let mut policy = Policy::default();
        policy.tls.version_min = Version::Tls13;
        policy.trust.system = false;
        Effective::load(policy).unwrap()
    }

    #[test]
    fn what_is_not_set_is_the_policys_and_what_is_weaker_is_refused() {
        let (mut context, effective) = (Context::new_zeroed(), strict());
        assert_eq!(scalar(&context, Setting::VersionMin, &effective).unwrap(), TLS_1_3);
        set(&mut context, Setting::VersionMin, TLS_1_2);
        let weaker = scalar(&context, Setting::VersionMin, &effective).unwrap_err();
        assert!(weaker.to_string().contains("TLS_VERSION_MIN is 0x303"), "{weaker}");
        set(&mut context, Setting::VersionMin, TLS_1_3);
        assert_eq!(scalar(&context, Setting::VersionMin, &effective).unwrap(), TLS_1_3);
    }

    #[test]
    fn sessions_are_shared_by_connections_of_one_policy_and_like_settings_only() {
        let (context, effective) = (Context::new_zeroed(), strict());
        let key = session_key(&context, &effective).unwrap();
        assert!(key == session_key(&context, &effective).unwrap());
        assert!(key != session_key(&context, &strict()).unwrap(), "another policy, though it says the same");
        let mut other = context;
        set(&mut other, Setting::SessionTtl, 0);
        assert_eq!(session_ttl(&other, &effective).unwrap(), None);
        assert!(session_ttl(&context, &effective).unwrap().is_some());
    }

    #[test]
    fn revocation_is_checked_where_policy_or_application_want_it() {
        let (mut context, effective) = (Context::new_zeroed(), strict());
        assert!(checks(&context, &effective).unwrap().is_none());
        set(&mut context, Setting::RevocationChecks, 1);
        set(&mut context, Setting::CrlChecks, 0);
        let checks = checks(&context, &effective).unwrap().unwrap();
        assert_eq!(checks.sources, Sources { stapled: true, ocsp: true, crl: false, cached: true });
    }

    #[test]
    fn protocols_have_their_length_before_them() {
        assert_eq!(wire(["h2", "", "http/1.1"].into_iter()), b"\x02h2\x08http/1.1");
    }

    #[tokio::test]
    async fn key_without_its_chain_names_the_option() {
        let (_sent, read) =
            tokio::sync::watch::channel(Some(Ok(Read { files: vec![b"x".to_vec()], ..Read::default() })));
        let upload = Upload {
            option: uapi::TLS_PRIVATE_KEY,
            sequence: 1,
            caller: ssa_common::socket::Caller::new_zeroed(),
            path: None,
            read,
            forgotten: Arc::default(),
        };
        let error = load(&strict(), &[upload]).await.err().unwrap();
        assert!(error.starts_with("TLS_PRIVATE_KEY: "), "{error}");
    }
}
