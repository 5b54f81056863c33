//! Environment variables and systemd credentials, as the configuration sees them.
//!
//! An argument instead of the process's own environment, so that tests don't change that.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of systemd's credentials (`LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where `${NAME}`, `{ env = … }` and `{ credential = … }` are looked up.
#[derive(Clone)]
pub struct Environment {
    /// `None` is the process's own.
    variables: Option<Arc<HashMap<String, OsString>>>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Environment { variables: None }
    }

    /// The value of a variable; `None` when it is not set.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        match &self.variables {
            None => std::env::var_os(name),
            Some(variables) => variables.get(name).cloned(),
        }
    }

    /// The file of a systemd credential; `None` when systemd gave none at all. It need not exist.
    pub fn credential(&self, name: &str) -> Option<PathBuf> {
        self.variable(CREDENTIALS).map(|folder| Path::new(&folder).join(name))
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Environment { variables: Some(Arc::new(variables)) }
    }
}

impl fmt::Debug for Environment {
    /// Names no values: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}
