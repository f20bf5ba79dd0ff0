//! Portcullis: a gate in front of Python web applications that also runs them.
pub mod applications;
pub mod clock;
pub mod config;
pub mod model;
pub mod policy;
pub mod secret;
pub mod target;
pub mod written;
