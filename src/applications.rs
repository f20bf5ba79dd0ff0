//! From the policies directory to applications: where configuration, which reads files and knows no policy, meets the
//! policy, which understands them and reads nothing.

use std::{collections::BTreeSet, path::Path};

use crate::{
    config::Config,
    policy::{self, Context, Known, Suite},
    written::{Problem, Source},
};

impl Config {
    /// Every application in the policies directory, and the warnings.
    ///
    /// # Errors
    /// Every mistake in every file. One is enough to refuse them all: half a set of policies is not what was reviewed.
    pub fn load_applications(&self) -> policy::Loaded {
        self.load(None)
    }

    /// The same, with warnings of rules that name nobody there is.
    ///
    /// # Errors
    /// As for [`Config::load_applications`].
    pub fn load_applications_knowing(&self, known: &Known) -> policy::Loaded {
        self.load(Some(known))
    }

    /// The applications of other policies, judged as if they were in force here: for comparing. Where they lie on this
    /// machine is not looked at.
    ///
    /// # Errors
    /// Every mistake in every file, but for expectations that are not kept.
    pub fn load_others(&self, sources: &[Source]) -> Result<Suite, Vec<Problem>> {
        self.understand(None, &|_| true, |context| policy::load_unproved(sources, context))
    }

    /// Every application with what its policy expects of it, not yet proved.
    ///
    /// # Errors
    /// Every mistake in every file, but for expectations that are not kept.
    pub fn load_unproved(&self) -> Result<Suite, Vec<Problem>> {
        let (sources, mut problems) = self.policy_sources();
        match self.understand(None, &|path| path.is_dir(), |context| policy::load_unproved(&sources, context)) {
            Ok(suite) if problems.is_empty() => Ok(suite),
            Ok(suite) => {
                problems.extend(suite.warnings);
                Err(problems)
            }
            Err(found) => {
                problems.extend(found);
                Err(problems)
            }
        }
    }

    fn load(&self, known: Option<&Known>) -> policy::Loaded {
        let (sources, mut problems) = self.policy_sources();
        match self.understand(known, &|path| path.is_dir(), |context| policy::load(&sources, context)) {
            Ok(loaded) if problems.is_empty() => Ok(loaded),
            Ok((_, found)) | Err(found) => {
                problems.extend(found);
                Err(problems)
            }
        }
    }

    /// What this configuration says about applications, for whoever reads policies.
    fn understand<T>(
        &self,
        known: Option<&Known>,
        is_directory: &dyn Fn(&Path) -> bool,
        read: impl FnOnce(Context<'_>) -> T,
    ) -> T {
        let namespaces: BTreeSet<String> = self.namespaces.keys().cloned().collect();
        read(Context {
            system: self.security.methods,
            level: self.security.level,
            namespaces: &namespaces,
            networks: &self.networks,
            paths: &self.paths,
            known,
            is_directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::{config, written::render};

    #[test]
    fn applications_are_read_from_their_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
        write("portcullis.toml", "[namespace.notes]\n");
        let (config, _) = config::load(&root.join("portcullis.toml")).unwrap();
        let missing = config.load_applications().unwrap_err();
        assert!(missing[0].to_string().starts_with("policies: the policies cannot be read"), "{}", missing[0]);
        fs::create_dir_all(root.join("policies")).unwrap();
        fs::create_dir_all(root.join("notes")).unwrap();
        let app = "[app]\nname = \"/notes\"\nnamespace = \"notes\"\ndirectory = \"../notes\"\nmodule = \"app\"\nmethods = \"password\"\n";
        write("policies/notes.toml", app);
        write("policies/notes.cases.toml", "not even TOML");
        write("policies/.notes.toml", "an editor's");
        write("policies/notes.toml~", "an editor's");
        let (apps, warnings) = config.load_applications().unwrap();
        assert_eq!((apps.len(), warnings.len()), (1, 0));
        assert_eq!((&*apps[0].file, apps[0].directory.as_path()), ("policies/notes.toml", &*root.join("notes")));
        write("policies/a.toml", &app.replace("[\"password\"]", "password"));
        fs::create_dir(root.join("policies/b.toml")).unwrap();
        let problems = config.load_applications().unwrap_err();
        let text = render(&problems, false);
        assert!(text.contains("policies/b.toml") && text.contains("is a directory"), "{text}");
        assert!(text.contains("policies/notes.toml:2:8") && text.contains("is taken by policies/a.toml:2"), "{text}");
    }
}
