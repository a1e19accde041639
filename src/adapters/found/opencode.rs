//! Where opencode keeps its conversations: since 1.18 in a database, `~/.local/share/opencode/opencode.db`, before that in a
//! file for each session, message and part, in `storage/` beside it. What is in them, the daemon asks. As seen with
//! 1.18.33 and 1.1.65.

use super::super::opencode::{database, tokens};
use super::{Found, Opencode, Store, fit, option};

pub(in crate::adapters) const OPENCODE: Found = Found {
    packages: &["opencode-ai"],
    id_in: |arguments| option(arguments, &["--session", "-s"]).and_then(fit),
    store: Some(Store::Opencode(Opencode {
        database,
        storage: |look| look.cwd.join(look.data_home().join("opencode/storage")),
        tokens,
    })),
};
