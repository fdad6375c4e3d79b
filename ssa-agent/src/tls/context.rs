//! `SSL_CTX` of clients, and the parts that those of servers share.

use std::{fs, time::Duration};

use openssl::{
    ssl::{
        SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVerifyMode,
        SslVersion,
    },
    x509::{
        X509,
        store::{X509Lookup, X509StoreBuilder},
        verify::X509VerifyFlags,
    },
};

use super::{
    credentials::certificates,
    error::{Error, noting_failures},
    handshake::HANDSHAKE,
    parameters::{Parameters, TrustAnchors},
};

/// Makes the `SSL_CTX` of clients: it trusts the anchors of `parameters`, or, if there are some, the certificates
/// `trusted` alone. Reads files, and so may block.
pub(crate) fn context(parameters: &Parameters, trusted: Option<Vec<X509>>) -> Result<SslContext, Error> {
    let mut builder = SslContextBuilder::new(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // Whoever is there after it would not be looked at.
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    let mut store = match trusted {
        None => trust(&parameters.trust)?,
        Some(certificates) => {
            let mut store = X509StoreBuilder::new()?;
            for certificate in certificates {
                store.add_cert(certificate)?;
            }
            store
        }
    };
    if parameters.strict {
        store.set_flags(X509VerifyFlags::X509_STRICT)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify_depth(parameters.verify_depth);
    limit_algorithms(&mut builder, parameters)?;
    builder.set_verify_callback(SslVerifyMode::PEER, noting_failures);
    // An idle connection keeps no buffers; a busy one reads whole records in one call.
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    builder.set_read_ahead(true);
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    builder.set_new_session_callback(|ssl, session| {
        if let Some(handshake) = ssl.ex_data(*HANDSHAKE) {
            handshake.keep(ssl, session);
        }
    });
    Ok(builder.build())
}

/// Sets the allowed groups and signature algorithms, and whether there are tickets, on the `SSL_CTX` of a client or
/// server.
pub(super) fn limit_algorithms(builder: &mut SslContextBuilder, parameters: &Parameters) -> Result<(), Error> {
    if !parameters.groups.is_empty() {
        builder.set_groups_list(&parameters.groups.join(":"))?;
    }
    if !parameters.signature_algorithms.is_empty() {
        builder.set_sigalgs_list(&parameters.signature_algorithms.join(":"))?;
    }
    if !parameters.tickets {
        builder.set_options(SslOptions::NO_TICKET);
    }
    Ok(())
}

/// Sets the lifetime of a server's sessions (`SSL_CTX_set_timeout(3)`), in whole seconds.
#[expect(unsafe_code, reason = "the openssl crate lacks it")]
pub(super) fn set_timeout(builder: &mut SslContextBuilder, ttl: Duration) {
    unsafe extern "C" {
        fn SSL_CTX_set_timeout(context: *mut openssl_sys::SSL_CTX, seconds: std::ffi::c_long) -> std::ffi::c_long;
    }
    let seconds = std::ffi::c_long::try_from(ttl.as_secs()).unwrap_or(std::ffi::c_long::MAX);
    // SAFETY: the context is alive.
    unsafe { SSL_CTX_set_timeout(builder.as_ptr(), seconds) };
}

/// Makes a store of trust anchors. Reads files.
fn trust(anchors: &TrustAnchors) -> Result<X509StoreBuilder, Error> {
    let mut store = X509StoreBuilder::new()?;
    if anchors.system {
        store.set_default_paths()?;
    }
    for path in &anchors.files {
        let wrong = |what: String| Error::TrustAnchors { path: path.clone(), what };
        let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates(&pem).map_err(wrong)? {
            store.add_cert(certificate)?;
        }
    }
    if !anchors.directories.is_empty() {
        let lookup = store.add_lookup(X509Lookup::hash_dir())?;
        for path in &anchors.directories {
            if !path.is_dir() {
                return Err(Error::TrustAnchors { path: path.clone(), what: "not a directory".to_owned() });
            }
            lookup.add_dir(&path.to_string_lossy(), SslFiletype::PEM)?;
        }
    }
    Ok(store)
}
