//! Portcullis: a gate in front of Python web applications that also runs them.
pub mod authn;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod model;
pub mod policy;
pub mod secret;
pub mod store;
pub mod target;
pub mod telemetry;
pub mod written;
