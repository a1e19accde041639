//! opencode's database, `~/.local/share/opencode/opencode.db`: where it is. What is in it is asked in SQL by the daemon.
//! As seen with 1.18.33; older versions keep JSON files, which nobody reads here.

use super::super::opencode::database;
use super::{Found, Store, fit, option};

pub(in crate::adapters) const OPENCODE: Found = Found {
    packages: &["opencode-ai"],
    id_in: |arguments| option(arguments, &["--session", "-s"]).and_then(fit),
    store: Some(Store::Opencode(database)),
};
