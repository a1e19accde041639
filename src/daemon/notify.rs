//! Receivers that a launch or a fuse names: endpoints of the configuration, and URLs that it does not know.
//!
//! Owns what such a URL may be, and the name that stands for it wherever the URL itself is not shown.

use sha2::{Digest, Sha256};

use crate::config::target::{Place, Target, literal, place};
use crate::config::{self, Config};
use crate::core::record::DeliveryId;
use crate::core::session::{HiddenText, Notify};
use crate::limits;
use crate::wire::hex;

/// Whom a launch names to be told of its end: endpoints by name, and URLs as far as they are allowed.
pub(super) fn named(config: &Config, named: &[String]) -> Result<Vec<Notify>, String> {
    if named.len() > limits::NOTIFY_MAX {
        return Err(format!("notify: {} are more than {}", named.len(), limits::NOTIFY_MAX));
    }
    let mut all: Vec<Notify> = Vec::new();
    for text in named {
        let target = if text.contains(DeliveryId::AD_HOC_MARK) {
            ad_hoc(config, text).map_err(|why| format!("notify: {why}"))?
        } else {
            if config.webhook(text).is_none() {
                let near = config::nearest(text, config.webhooks.iter().map(|webhook| webhook.name.as_str()));
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Err(format!("notify: no endpoint is named \"{text}\", and it is no URL{hint}"));
            }
            Notify { endpoint: text.clone(), url: None }
        };
        if !all.contains(&target) {
            all.push(target);
        }
    }
    Ok(all)
}

/// A URL that the configuration does not know, as far as it is allowed.
pub(super) fn ad_hoc(config: &Config, text: &str) -> Result<Notify, String> {
    match of_url(config, text)? {
        (notify, None) => Ok(notify),
        (_, Some(why)) => Err(why),
    }
}

/// A URL that the configuration does not know, and why it may not be told as things are; each delivery asks again.
pub(super) fn of_url(config: &Config, text: &str) -> Result<(Notify, Option<String>), String> {
    let target = Target::parse(text)?;
    let private = target.socket().is_some()
        || target.uri().host().is_some_and(|host| {
            host == "localhost" || literal(host).is_some_and(|address| place(address) != Place::Public)
        });
    let needs_leave = (private && !config.notify_allow_private).then(|| {
        let shown = target.shown();
        format!(
            "{shown} is on this host or its networks; name an endpoint of the configuration, or set notify_allow_private there"
        )
    });
    // The digest tells apart what is not shown, and is the same for the same URL.
    let digest = Sha256::digest(text.as_bytes());
    let endpoint = format!("{}#{}", target.shown(), hex(&digest[..4]));
    Ok((Notify { endpoint, url: Some(HiddenText(text.to_owned())) }, needs_leave))
}
