//! A certificate authority of a test's own, in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509Extension, X509NameBuilder,
        extension::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier},
    },
};
use tempfile::TempDir;

/// A root, and what it has signed.
pub struct Pki {
    folder: TempDir,
    root: Identity,
}

/// A certificate with its key, and those between it and the root.
#[derive(Clone)]
pub struct Identity {
    pub certificate: X509,
    pub key: PKey<Private>,
    pub intermediates: Vec<X509>,
}

/// Names, validity and extensions of a leaf.
#[derive(Clone, Copy)]
pub struct Leaf<'a> {
    /// Names that are not IP addresses are DNS names.
    pub names: &'a [&'a str],
    /// Days from now.
    pub valid: (i64, i64),
    /// More extensions, as OpenSSL's configuration has them (x509v3_config(5)).
    pub extensions: &'a [(&'a str, &'a str)],
}

impl<'a> Leaf<'a> {
    /// Valid now, for these names.
    pub fn of(names: &'a [&'a str]) -> Self {
        Self { names, valid: (-1, 30), extensions: &[] }
    }

    /// Adds these extensions.
    pub fn with(self, extensions: &'a [(&'a str, &'a str)]) -> Self {
        Self { extensions, ..self }
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ssa-pki").tempdir().expect("a folder can be made");
        let root = authority("SSA test root", None, &[]);
        fs::write(folder.path().join("ca.pem"), pem(&root.certificate)).expect("the folder is ours");
        let key = root.key.private_key_to_pem_pkcs8().expect("keys can be written");
        fs::write(folder.path().join("ca.key"), key).expect("the folder is ours");
        // Applications of other users read it too.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        Self { folder, root }
    }

    /// The folder, for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The root as a PEM file.
    pub fn ca(&self) -> String {
        self.path("ca.pem").to_string_lossy().into_owned()
    }

    /// The root as PEM text.
    pub fn ca_pem(&self) -> String {
        String::from_utf8(pem(&self.root.certificate)).expect("PEM is text")
    }

    /// A server's certificate, signed by the root.
    pub fn leaf(&self, leaf: Leaf<'_>) -> Identity {
        signed(leaf, &self.root, Vec::new())
    }

    /// A server's certificate, signed by an intermediate.
    pub fn leaf_below_intermediate(&self, leaf: Leaf<'_>) -> Identity {
        self.leaf_below(&self.intermediate(&[]), leaf)
    }

    /// An intermediate authority, signed by the root.
    pub fn intermediate(&self, extensions: &[(&str, &str)]) -> Identity {
        authority("SSA test intermediate", Some(&self.root), extensions)
    }

    /// A certificate that an authority has signed.
    pub fn leaf_below(&self, authority: &Identity, leaf: Leaf<'_>) -> Identity {
        signed(leaf, authority, vec![authority.certificate.clone()])
    }

    /// The root itself.
    pub fn root(&self) -> &Identity {
        &self.root
    }

    /// Signs a leaf with a key of the test's own.
    pub fn leaf_with_key(&self, leaf: Leaf<'_>, key: PKey<Private>) -> Identity {
        let name = leaf.names.first().copied().unwrap_or("leaf");
        let certificate = build(name, &key, Some(&self.root), Some(leaf), leaf.valid, leaf.extensions);
        Identity { certificate, key, intermediates: Vec::new() }
    }

    /// Writes certificate chain and key as PEM files; returns their paths.
    pub fn write(&self, name: &str, identity: &Identity) -> (String, String) {
        let chain: Vec<u8> =
            std::iter::once(&identity.certificate).chain(&identity.intermediates).flat_map(pem).collect();
        let key = identity.key.private_key_to_pem_pkcs8().expect("keys can be written");
        let (chain_path, key_path) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        fs::write(&chain_path, chain).expect("the folder is ours");
        fs::write(&key_path, key).expect("the folder is ours");
        (chain_path.to_string_lossy().into_owned(), key_path.to_string_lossy().into_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A certificate that has signed itself.
pub fn self_signed(leaf: Leaf<'_>) -> Identity {
    let key = new_key();
    let name = leaf.names.first().copied().unwrap_or("self");
    let certificate = build(name, &key, None, Some(leaf), leaf.valid, leaf.extensions);
    Identity { certificate, key, intermediates: Vec::new() }
}

fn authority(name: &str, issuer: Option<&Identity>, extensions: &[(&str, &str)]) -> Identity {
    let key = new_key();
    let certificate = build(name, &key, issuer, None, (-2, 365), extensions);
    Identity { certificate, key, intermediates: Vec::new() }
}

fn signed(leaf: Leaf<'_>, issuer: &Identity, intermediates: Vec<X509>) -> Identity {
    let key = new_key();
    let name = leaf.names.first().copied().unwrap_or("leaf");
    let certificate = build(name, &key, Some(issuer), Some(leaf), leaf.valid, leaf.extensions);
    Identity { certificate, key, intermediates }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("OpenSSL has P-256");
    PKey::from_ec_key(EcKey::generate(&group).expect("keys can be made")).expect("it is a key")
}

/// Makes a certificate: of a CA if there is no `leaf`.
#[expect(deprecated, reason = "no other function takes extensions as texts")]
fn build(
    common_name: &str,
    key: &PKey<Private>,
    issuer: Option<&Identity>,
    leaf: Option<Leaf<'_>>,
    (from, to): (i64, i64),
    extensions: &[(&str, &str)],
) -> X509 {
    let made = || -> Result<X509, openssl::error::ErrorStack> {
        let mut subject = X509NameBuilder::new()?;
        subject.append_entry_by_text("O", "SSA tests")?;
        subject.append_entry_by_text("CN", common_name)?;
        let subject = subject.build();
        let mut serial = BigNum::new()?;
        serial.rand(120, MsbOption::MAYBE_ZERO, false)?;
        let mut builder = X509Builder::new()?;
        builder.set_version(2)?;
        builder.set_serial_number(&*serial.to_asn1_integer()?)?;
        builder.set_subject_name(&subject)?;
        builder.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name()))?;
        builder.set_pubkey(key)?;
        builder.set_not_before(&*at_day(from)?)?;
        builder.set_not_after(&*at_day(to)?)?;
        let signer = issuer.map(|issuer| &*issuer.certificate);
        let key_id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(signer, None))?;
        builder.append_extension(key_id)?;
        if issuer.is_some() {
            let issuer_id = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(signer, None))?;
            builder.append_extension(issuer_id)?;
        }
        match leaf {
            None => {
                builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
                builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
            }
            Some(leaf) => {
                let mut names = SubjectAlternativeName::new();
                for name in leaf.names {
                    match name.parse::<std::net::IpAddr>() {
                        Ok(_) => names.ip(name),
                        Err(_) => names.dns(name),
                    };
                }
                let names = names.build(&builder.x509v3_context(signer, None))?;
                builder.append_extension(names)?;
            }
        }
        for (name, value) in extensions {
            let extension = X509Extension::new(None, Some(&builder.x509v3_context(signer, None)), name, value)?;
            builder.append_extension(extension)?;
        }
        builder.sign(issuer.map_or(key, |issuer| &issuer.key), MessageDigest::sha256())?;
        Ok(builder.build())
    };
    made().expect("certificates can be made")
}

fn at_day(day: i64) -> Result<Asn1Time, openssl::error::ErrorStack> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    Asn1Time::from_unix(i64::try_from(now.as_secs()).expect("it is before the end of time") + day * 86_400)
}

fn pem(certificate: &X509) -> Vec<u8> {
    certificate.to_pem().expect("certificates can be written")
}
