//! Stories through the real door: the real program on a free port, TLS, real workers, a real store.
#![allow(missing_docs, clippy::unwrap_used)]

mod cli;
mod examples;
mod harness;
mod methods;
mod pythons;
mod revocation;
mod stopping;
mod workers;
mod wsgi;
