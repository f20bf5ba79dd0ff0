//! Stories through the real door: the real program on a free port, TLS, real workers, a real store.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod aborts;
mod asgi;
mod cli;
mod corpus;
mod events;
mod examples;
mod frameworks;
mod harness;
mod load;
mod methods;
mod paths;
mod preload;
mod pythons;
mod raw;
mod reload;
mod revocation;
mod spoofing;
mod static_files;
mod stopping;
mod stream;
mod tls;
mod wire;
mod workers;
mod workload;
mod wsgi;
