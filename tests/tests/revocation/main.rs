//! Revocation of certificates: OCSP, stapling and CRLs, for clients and for servers.

mod checks;
