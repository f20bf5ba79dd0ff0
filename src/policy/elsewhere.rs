//! Applications that run elsewhere: behind a proxy, which asks the gate about every request to them. Their policy says
//! who may, like any other; nothing is started for them here.
//!
//! So what a policy says about running an application is a mistake in theirs, not a line without effect: a `body_bytes`
//! that nobody enforces looks like protection.

use crate::written::Table;

/// Keys of `[app]` that are about an application which runs here.
const HERE_ONLY: [&str; 25] = [
    "directory",
    "module",
    "callable",
    "interface",
    "python",
    "namespace",
    "serve_files",
    "workers",
    "threads",
    "environment",
    "pass_authorization",
    "identity_headers",
    "preload",
    "stream_bodies",
    "reload",
    "body_bytes",
    "queue_timeout",
    "request_timeout",
    "start_timeout",
    "stop_timeout",
    "deadlock_timeout",
    "max_requests",
    "max_memory",
    "headers",
    "cors",
];

/// Whether `[app]` is about an application that runs elsewhere: `runs = "elsewhere"`.
pub(super) fn read(app: &Table<'_>) -> bool {
    let places = [("here", false), ("elsewhere", true)];
    let elsewhere = app.value("runs").and_then(|value| value.word("a place to run", &places)).unwrap_or(false);
    if elsewhere {
        for value in HERE_ONLY.iter().filter_map(|key| app.value(key)) {
            let message = format!("`{}` is about an application that runs here", value.key());
            value.key_error(message, "this one runs elsewhere: leave it out");
        }
    }
    elsewhere
}
