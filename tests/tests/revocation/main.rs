//! Revocation of certificates: OCSP, stapling and CRLs, for clients and for servers.

mod cache;
mod connections;
mod listeners;
mod policy;
mod scene;
mod sources;
mod trouble;
