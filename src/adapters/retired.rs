//! Names that the earlier agentctl knew and that are no adapters here, and what to do instead.

/// Why there is no adapter of this name, for whoever asks for it by a habit of the earlier agentctl.
pub fn instead_of(name: &str) -> Option<&'static str> {
    match name {
        "openclaw" => Some(
            "openclaw is a gateway, not a program that can be launched or supervised (the earlier agentctl only listed \
             its sessions): launch an agent itself (agentctl adapters); --callback-session and --callback-agent reach \
             its webhooks as before",
        ),
        "slate" => Some(
            "there is no adapter slate: run it as a command (agentctl launch exec -- slate -q PROMPT), or declare it in the \
             configuration (docs/adapters.md)",
        ),
        "codex-acp" => Some(
            "there is no adapter codex-acp: use codex, or declare the program codex-acp in the configuration with \
             \"protocol\": \"acp\" (docs/adapters.md)",
        ),
        _ => None,
    }
}
