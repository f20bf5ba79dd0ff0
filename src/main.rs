//! The program: everything it does is in the library.

use std::process::ExitCode;

/// Smaller and faster than the system's under many threads, and it gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A Python that is to be started has to be confined before anything else happens in its process.
    if let Some(code) = portcullis::app::confine::launcher() {
        return code;
    }
    // Nobody reads keys and passwords out of this process, or takes it over, for being the same user. It also leaves no
    // core file. What fails here is a kernel that does not know the question.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // rustls and jsonwebtoken ask for the one provider of the process; a second one cannot be installed.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    portcullis::cli::main()
}
