//! Portcullis: a gate in front of Python web applications that also runs them.
//!
//! One program terminates TLS, finds out who is asking, decides whether they may, and calls the application's WSGI
//! callable in a worker process with the answer in `environ`. `docs/architecture.md` has the words and the reasons.
//!
//! # Where to look
//!
//! In the order of a request, each room using only what stands below it (`tests/tidy.rs` holds that):
//!
//! | room | question |
//! |---|---|
//! | [`cli`], [`serve`] | the doors: commands, and the running gateway put together |
//! | [`gateway`] | what happens to one request? Begin with `Thread::admit` |
//! | [`control`] | what can an administrator do? |
//! | [`authn`] | who is it? |
//! | [`app`] | what is behind the gate: workers, files |
//! | [`snapshot`], [`applications`], [`certificates`], [`audit`] | the view a request holds and what it is made of; what is recorded |
//! | [`policy`] | may they? Pure functions |
//! | [`store`], [`config`] | what is kept; what is written in files |
//! | [`target`], [`model`], [`written`], [`telemetry`], [`clock`], [`secret`], [`shutdown`] | the ground |
//!
//! Beside this library stand two packages: `portcullis-wire`, the frames between gateway and workers, and
//! `portcullis-worker`, the Python extension that speaks them.

pub mod app;
pub mod applications;
pub mod audit;
pub mod authn;
pub mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod edits;
pub mod gateway;
pub mod model;
pub mod policy;
pub mod secret;
pub mod serve;
pub mod shutdown;
pub mod snapshot;
pub mod store;
pub mod target;
pub mod telemetry;
pub mod written;
