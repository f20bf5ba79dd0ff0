//! Portcullis: a gate in front of Python web applications that also runs them.
pub mod audit;
pub mod clock;
pub mod control;
pub mod model;
pub mod secret;
pub mod store;
