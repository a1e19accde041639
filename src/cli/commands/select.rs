//! Which sessions are meant.

use form_urlencoded::Serializer;

/// The path of a listing.
pub(super) fn list_path(
    all: bool,
    status: Option<&str>,
    adapter: Option<&str>,
    group: Option<&str>,
    labels: &[String],
) -> String {
    let mut query = Serializer::new(String::new());
    if all {
        query.append_pair("all", "1");
    }
    for (key, value) in [("status", status), ("adapter", adapter), ("group", group)] {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    for label in labels {
        query.append_pair("label", label);
    }
    format!("/v1/sessions?{}", query.finish())
}
