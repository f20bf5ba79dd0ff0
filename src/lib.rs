//! Portcullis: a gate in front of Python web applications that also runs them.
pub mod audit;
pub mod authn;
pub mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod model;
pub mod policy;
pub mod secret;
pub mod store;
pub mod target;
pub mod written;

/// Stands in until the gateway is merged.
pub mod serve {
    /// Runs the gateway.
    ///
    /// # Errors
    /// It cannot start.
    pub fn run(file: &std::path::Path, listen: Option<std::net::SocketAddr>) -> anyhow::Result<std::process::ExitCode> {
        anyhow::bail!("no gateway: {} {listen:?}", file.display())
    }
}

/// Stands in until the gateway is merged.
pub mod app {
    /// Imports an application.
    ///
    /// # Errors
    /// It cannot be imported.
    pub async fn probe(
        _: &crate::config::Config,
        _: &crate::policy::Application,
    ) -> Result<portcullis_wire::Ready, String> {
        Err("no workers".to_owned())
    }
}

/// Stands in until the gateway is merged.
pub mod snapshot {
    use std::{path::Path, sync::Arc};

    use crate::{clock::Clock, config, policy::Application, target::NormalPath, written::Problem};

    /// Everything read.
    pub struct Snapshot {
        /// Mounts.
        pub routes: Routes,
    }

    impl Snapshot {
        /// Reads everything.
        ///
        /// # Errors
        /// Mistakes.
        pub fn load(file: &Path, _: &Clock) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
            let (config, mut warnings) = config::load(file)?;
            let (applications, more) = config.load_applications()?;
            warnings.extend(more);
            Ok((Self { routes: Routes::new(applications) }, warnings))
        }
    }

    /// Mounts.
    pub struct Routes(Vec<Arc<Application>>);

    impl Routes {
        /// Mounts.
        pub fn new(applications: Vec<Arc<Application>>) -> Self {
            Self(applications)
        }

        /// The longest mount.
        pub fn find(&self, path: &NormalPath) -> Option<&Arc<Application>> {
            self.0.iter().filter(|app| app.mount.split(path).is_some()).max_by_key(|app| app.name.len())
        }

        /// All of them.
        pub fn all(&self) -> &[Arc<Application>] {
            &self.0
        }
    }
}
