//! All sessions, by id. Each has an allocation of its own: the nodes of a tree are a third empty, which with whole sessions
//! in them is most of what thousands of sessions cost.

use std::collections::BTreeMap;

use super::session::Session;
use super::vocab::SessionId;

#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(BTreeMap<SessionId, Box<Session>>);

impl Sessions {
    pub(super) fn insert(&mut self, session: Session) {
        self.0.insert(session.id, Box::new(session));
    }

    pub(super) fn remove(&mut self, id: &SessionId) -> Option<Session> {
        self.0.remove(id).map(|session| *session)
    }

    pub(super) fn get(&self, id: &SessionId) -> Option<&Session> {
        self.0.get(id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: &SessionId) -> Option<&mut Session> {
        self.0.get_mut(id).map(Box::as_mut)
    }

    pub(super) fn contains_key(&self, id: &SessionId) -> bool {
        self.0.contains_key(id)
    }

    /// In the order of their ids.
    pub(super) fn values(&self) -> impl Iterator<Item = &Session> {
        self.0.values().map(Box::as_ref)
    }

    /// Those from this id on.
    pub(super) fn from(&self, least: SessionId) -> impl Iterator<Item = &Session> {
        self.0.range(least..).map(|(_, session)| session.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_as_small_as_thousands_of_them_have_to_be() {
        let bytes = size_of::<Session>();
        assert!(bytes <= 1_500, "{bytes} bytes: what few sessions have is worth a box");
    }
}
