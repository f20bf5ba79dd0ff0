//! The program: everything it does is in the library.

use std::process::ExitCode;

/// Smaller and faster than the system's under many threads, and it gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // rustls and jsonwebtoken ask for the one provider of the process; a second one cannot be installed.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    portcullis::cli::main()
}
