//! Requests that belong together: what they come to is recorded in one step, so that a crash leaves all of it or nothing.
//!
//! Each is carried out and answered by itself, in the one way that there is for a request of its kind. Refuses to begin
//! launches of which only a part could begin, or wait, as it asks.

use super::locks::IfTaken;
use super::queue::Beside;
use super::record::RequestKey;
use super::refusal::Refusal;
use super::session::Spec;
use super::supervisor::Supervisor;
use super::vocab::Now;
use super::{Reply, ReplyTo, Request, Step};

impl Supervisor {
    pub(super) fn together(&mut self, now: Now, requests: Vec<(ReplyTo, Request)>, out: &mut Step) {
        // What is refused at all at present is refused, or answered as before, by each.
        let refusal = if self.not_now().is_none() { self.not_all(&requests) } else { None };
        for (to, request) in requests {
            match &refusal {
                Some(refusal) => out.reply(to, Reply::Refused(refusal.clone())),
                None => self.request(now, to, request, out),
            }
        }
    }

    /// Why one of these launches would be refused when its turn in the row has come.
    fn not_all(&self, requests: &[(ReplyTo, Request)]) -> Option<Refusal> {
        let launches = requests.iter().filter_map(|(_, request)| {
            let Request::Launch { key, spec, .. } = request else { return None };
            Some((key, &**spec))
        });
        let known = |key: &RequestKey| self.keys.contains_key(&key.key);
        let new = launches.filter(|(key, _)| !key.as_ref().is_some_and(known));
        let new: Vec<&Spec> = new.map(|(_, spec)| spec).collect();
        // One that may wait needs no room now.
        let asked = new.iter().filter(|spec| spec.claim.if_taken != IfTaken::Queue).count();
        let (live, max) = (self.placed(), self.settings.max_sessions);
        if asked > 0 && live + asked > max {
            return Some(Refusal::NoRoom { asked, live, max });
        }
        let mut beside = Beside::default();
        for spec in new {
            let directory = spec.directory();
            match self.has_to_wait(Some(&directory), &spec.claim, &spec.adapter, &beside) {
                Ok(waits) => beside.add(directory, &spec.adapter, waits),
                Err(refusal) => return Some(refusal),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::super::fuse::{Evidence, LaunchError};
    use super::super::record::Record;
    use super::super::session::Origin;
    use super::super::vocab::{HostId, Mono, RunId, SessionId, Wall};
    use super::super::{Effect, Event, Settings};
    use super::*;

    const NOW: Now = Now { wall: Wall(1_000_000), mono: Mono(1_000_000) };

    fn supervisor(max_sessions: usize) -> Supervisor {
        let host = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
        let mut core = Supervisor::new(Settings {
            retention: Duration::from_secs(1_000),
            max_sessions,
            ..Settings::of_test(host)
        });
        core.step(NOW, Event::Recovered);
        core
    }

    fn launch(number: u128, key: &str) -> (ReplyTo, Request) {
        let spec = Spec::exec(vec!["true".into()], format!("/w/{number}"), Duration::from_secs(1));
        let request = Request::Launch {
            session: SessionId(Uuid::from_u128(number)),
            host: HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 },
            origin: Origin::Launched,
            spec: Box::new(spec),
            key: Some(RequestKey { key: format!("{key}/{number}").into(), digest: "d".into() }),
        };
        (ReplyTo(u64::try_from(number).unwrap_or(0)), request)
    }

    fn created(step: &Step) -> usize {
        step.records.iter().filter(|record| matches!(record, Record::Created { .. })).count()
    }

    #[test]
    fn all_are_recorded_in_one_step_and_each_is_answered_by_itself() {
        let mut core = supervisor(10);
        let step = core.step(NOW, Event::Together((1..=3).map(|number| launch(number, "k")).collect()));
        assert_eq!(created(&step), 3);
        let spawns = step.effects.iter().filter(|effect| matches!(effect, Effect::Spawn(_)));
        assert_eq!(spawns.count(), 3);
        // The same again finds them and makes none.
        let again = core.step(NOW, Event::Together((1..=3).map(|number| launch(number, "k")).collect()));
        assert_eq!((created(&again), core.live()), (0, 3));
        // One that fails is answered while the others are awaited.
        let second = RunId { session: SessionId(Uuid::from_u128(2)), run: 1 };
        let failed = Evidence::LaunchFailed(LaunchError::Setup("no".into()));
        core.step(NOW, Event::Evidence(second, failed));
        let told = core.step(NOW, Event::Durable(core.appended()));
        let answered: Vec<_> = told
            .effects
            .iter()
            .filter_map(
                |effect| if let Effect::Reply(_, reply) = effect { Some(reply.clone()) } else { None },
            )
            .collect();
        assert_eq!(answered, [Reply::Launched(second.session), Reply::Launched(second.session)]);
    }

    #[test]
    fn where_there_is_no_room_for_all_there_is_none_for_one() {
        let mut core = supervisor(4);
        core.step(NOW, Event::Together(vec![launch(1, "k"), launch(2, "k")]));
        let three = || vec![launch(3, "l"), launch(4, "l"), launch(5, "l")];
        let step = core.step(NOW, Event::Together(three()));
        let refusal = Refusal::NoRoom { asked: 3, live: 2, max: 4 };
        let refused: Vec<_> =
            (3..=5).map(|number| Effect::Reply(ReplyTo(number), Reply::Refused(refusal.clone()))).collect();
        assert_eq!((step.records.len(), step.effects), (0, refused));
        assert_eq!(created(&core.step(NOW, Event::Together(vec![launch(3, "l"), launch(4, "l")]))), 2);
    }
}
