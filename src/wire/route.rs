//! Which request means what: method and path, taken apart. Total: any two texts give a route or a reason.
//!
//! Refuses to know whether a session exists, and to look at query or body.

use percent_encoding::percent_decode_str;

use super::fuses::FuseRoute;

/// A request that there is. Sessions are named as the client named them: id, prefix or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Metrics,
    Health,
    Doctor,
    Config,
    Shutdown,
    Reload,
    Events,
    Adapters,
    List,
    Launch,
    LaunchGroup,
    Prune,
    Session(String),
    Adopt(String),
    Wait(String),
    Log(String),
    Messages(String),
    Resume(String),
    Stop(String),
    Extend(String),
    Signal(String),
    Rerun(String),
    Endpoints,
    PauseEndpoint(String),
    ResumeEndpoint(String),
    TestEndpoint(String),
    Deliveries,
    Redeliver,
    Delivery(String),
    Fuse(FuseRoute),
    Locks,
    Lock,
    Unlock(String),
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The path does not decode to text.
    NotUtf8,
    /// Nothing has this method and path.
    Unknown,
}

impl Route {
    /// The session that is asked about, or asked something of.
    pub fn session(&self) -> Option<&str> {
        match self {
            Self::Session(id)
            | Self::Wait(id)
            | Self::Log(id)
            | Self::Messages(id)
            | Self::Resume(id)
            | Self::Stop(id)
            | Self::Extend(id)
            | Self::Signal(id)
            | Self::Rerun(id) => Some(id),
            Self::Metrics
            | Self::Health
            | Self::Doctor
            | Self::Shutdown
            | Self::Reload
            | Self::Config
            | Self::Events
            | Self::Adapters
            | Self::List
            | Self::Launch
            | Self::LaunchGroup
            | Self::Prune
            | Self::Adopt(_)
            | Self::Endpoints
            | Self::PauseEndpoint(_)
            | Self::ResumeEndpoint(_)
            | Self::TestEndpoint(_)
            | Self::Deliveries
            | Self::Redeliver
            | Self::Delivery(_)
            | Self::Fuse(_)
            | Self::Locks
            | Self::Lock
            | Self::Unlock(_) => None,
        }
    }

    /// The route of a request. Each segment is decoded by itself, so an encoded slash stays inside a name.
    pub fn of(method: &str, path: &str) -> Result<Self, NoRoute> {
        let decode = |segment| percent_decode_str(segment).decode_utf8().map_err(|_| NoRoute::NotUtf8);
        let segments: Vec<_> = path.trim_matches('/').split('/').map(decode).collect::<Result<_, _>>()?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        match (method, &segments[..]) {
            ("GET", ["metrics"]) => Ok(Self::Metrics),
            ("GET", ["v1", "health"]) => Ok(Self::Health),
            ("GET", ["v1", "doctor"]) => Ok(Self::Doctor),
            ("GET", ["v1", "config"]) => Ok(Self::Config),
            ("POST", ["v1", "shutdown"]) => Ok(Self::Shutdown),
            ("POST", ["v1", "reload"]) => Ok(Self::Reload),
            ("GET", ["v1", "events"]) => Ok(Self::Events),
            ("GET", ["v1", "adapters"]) => Ok(Self::Adapters),
            ("GET", ["v1", "sessions"]) => Ok(Self::List),
            ("POST", ["v1", "sessions"]) => Ok(Self::Launch),
            ("POST", ["v1", "groups"]) => Ok(Self::LaunchGroup),
            ("POST", ["v1", "prune"]) => Ok(Self::Prune),
            ("GET", ["v1", "sessions", id]) => Ok(Self::Session((*id).into())),
            ("GET", ["v1", "sessions", id, "wait"]) => Ok(Self::Wait((*id).into())),
            ("GET", ["v1", "sessions", id, "log"]) => Ok(Self::Log((*id).into())),
            ("GET", ["v1", "sessions", id, "messages"]) => Ok(Self::Messages((*id).into())),
            ("POST", ["v1", "sessions", target, "adopt"]) => Ok(Self::Adopt((*target).into())),
            ("POST", ["v1", "sessions", id, "resume"]) => Ok(Self::Resume((*id).into())),
            ("POST", ["v1", "sessions", id, "stop"]) => Ok(Self::Stop((*id).into())),
            ("POST", ["v1", "sessions", id, "extend"]) => Ok(Self::Extend((*id).into())),
            ("POST", ["v1", "sessions", id, "signal"]) => Ok(Self::Signal((*id).into())),
            ("POST", ["v1", "sessions", id, "rerun"]) => Ok(Self::Rerun((*id).into())),
            ("GET", ["v1", "webhooks"]) => Ok(Self::Endpoints),
            ("POST", ["v1", "webhooks", name, "pause"]) => Ok(Self::PauseEndpoint((*name).into())),
            ("POST", ["v1", "webhooks", name, "resume"]) => Ok(Self::ResumeEndpoint((*name).into())),
            ("POST", ["v1", "webhooks", name, "test"]) => Ok(Self::TestEndpoint((*name).into())),
            ("GET", ["v1", "deliveries"]) => Ok(Self::Deliveries),
            ("POST", ["v1", "deliveries", "redeliver"]) => Ok(Self::Redeliver),
            ("GET", ["v1", "deliveries", id]) => Ok(Self::Delivery((*id).into())),
            (_, ["v1", "fuses", rest @ ..]) => {
                FuseRoute::of(method, rest).map(Self::Fuse).ok_or(NoRoute::Unknown)
            }
            ("GET", ["v1", "locks"]) => Ok(Self::Locks),
            ("POST", ["v1", "locks"]) => Ok(Self::Lock),
            ("DELETE", ["v1", "locks", directory]) => Ok(Self::Unlock((*directory).into())),
            _ => Err(NoRoute::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_decoded_once_and_stays_one_segment() {
        assert_eq!(Route::of("GET", "/v1/sessions/a%2fb"), Ok(Route::Session("a/b".into())));
        assert_eq!(Route::of("GET", "/v1/sessions/%2561/log"), Ok(Route::Log("%61".into())));
        assert_eq!(Route::of("GET", "/v1/sessions/%ff"), Err(NoRoute::NotUtf8));
        for path in ["/v1/sessions/a/log/b", "/v1/sessions//log/", "/v2/health", "", "/"] {
            let unknown = matches!(Route::of("DELETE", path), Err(NoRoute::Unknown));
            assert!(unknown, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_method_and_path_give_a_route_or_a_reason(method in ".{0,8}", path in "[/a-z0-9%.?#\\PC]{0,80}") {
            let _total = Route::of(&method, &path);
        }

        #[test]
        fn a_session_of_any_name_is_found_under_its_encoded_name(name in "\\PC{1,40}") {
            let all = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
            prop_assert_eq!(Route::of("GET", &format!("/v1/sessions/{all}")), Ok(Route::Session(name.clone())));
            prop_assert_eq!(Route::of("POST", &format!("/v1/sessions/{all}/stop")), Ok(Route::Stop(name)));
        }
    }
}
