//! Portcullis: a gate in front of Python web applications that also runs them.
pub mod authn;
pub mod clock;
pub mod model;
pub mod secret;
pub mod store;
