//! pi-rust (`pi_agent_rust`): `pi-rust --print --mode json`, the prompt as a file on stdin.
//!
//! A port of pi that prints pi's events, read by its parser; its recordings are pi's. Not run here: what the earlier
//! tool passed to it is passed on, and the provider is part of the model (`provider/model`).

use super::found::{self, Found};
use super::pi;
use super::{Adapter, Ask, Program, PromptWay, env_unchanged};

pub(super) const PI_RUST: Adapter = Adapter {
    name: "pi-rust",
    program: Program::Named("pi-rust"),
    found: Found { packages: &[], id_in: found::no_id, store: None },
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: false,
    env: env_unchanged,
    parse: Some(pi::parse),
    first_start: None,
    acp: None,
};

fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = ["--print", "--mode", "json"].map(str::to_owned).to_vec();
    match ask.model.map(|model| (model, model.split_once('/'))) {
        Some((_, Some((provider, model)))) => {
            argv.extend(["--provider", provider, "--model", model].map(str::to_owned));
        }
        Some((model, None)) => argv.extend(["--model", model].map(str::to_owned)),
        None => {}
    }
    argv
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    let mut argv = argv(ask);
    argv.extend(["--session".to_owned(), native_id.to_owned()]);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        let joined = |model| argv(&Ask { model, ..Ask::default() }).join(" ");
        assert_eq!(joined(None), "--print --mode json");
        assert_eq!(joined(Some("m")), "--print --mode json --model m");
        assert_eq!(joined(Some("p/m/x")), "--print --mode json --provider p --model m/x");
        assert_eq!(resume(&Ask::default(), "id").join(" "), "--print --mode json --session id");
    }
}
