//! The Python extension that runs one WSGI application for Portcullis.
//!
//! The gateway starts the application's own `python` and has it load this library (`bootstrap.py`). From then on
//! Rust owns the loop: it reads frames from the gateway's lanes, builds `environ`, calls the application, and
//! writes frames back. There is no HTTP in this process, no socket that the outside can reach, and no secret.
//!
//! ```text
//! boot            the control socket, the import, Ready or the reason why not, the threads
//!  │               (load.py finds the callable, asgi.py wraps one that speaks ASGI; nursery forks workers from one import)
//!  └─ crew        who reads the lanes, who runs what is queued: leader and followers
//!      ├─ lane    one socket to one data thread of the gateway: frames in, frames out
//!      └─ run     one request: environ -> application -> start_response -> body -> close()
//! ```
//!
//! Two rules keep it free of deadlocks: nobody waits for the GIL while holding a lock of ours, and nobody waits for
//! a socket while holding the GIL.

mod boot;
mod control;
mod lane;
mod nursery;

mod crew;
mod exchange;

mod environ;
mod input;
mod logs;
mod respond;
mod run;
mod wrapper;

mod python;

use pyo3::{prelude::*, types::PyModule};

/// What the bootstrap imports: `main`, and the exception that a request past its time limit is interrupted with.
#[pymodule]
fn portcullis_worker(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(boot::main, module)?)?;
    module.add("RequestTimeout", module.py().get_type::<python::RequestTimeout>())?;
    module.add_class::<wrapper::FileWrapper>()
}
