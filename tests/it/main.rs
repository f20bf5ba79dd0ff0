//! Stories through the real door: the real program on a free port, TLS, real workers, a real store.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod aborts;
mod asgi;
mod chaos;
mod cli;
mod corpus;
mod cors;
mod decisions;
mod development;
mod edits;
mod events;
mod examples;
mod forward_auth;
mod frameworks;
mod hammer;
mod harness;
mod hostile;
mod hygiene;
mod isolation;
mod limits;
mod load;
mod logs;
mod methods;
mod paths;
mod policy_tools;
mod preload;
mod pythons;
mod raw;
mod reach;
#[path = "../reference/mod.rs"]
mod reference;
mod reload;
mod report;
mod revocation;
mod spoofing;
mod static_files;
mod stopping;
mod stream;
mod tls;
mod unreadable;
mod wire;
mod withdrawn;
mod workers;
mod workload;
mod wsgi;
