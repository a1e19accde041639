//! What an agent prints: any bytes, in any chunks, come to the same events, and to a report.

#![no_main]

use agentctl::adapters::{ALL, Lines, Progress, Tail, last_messages, report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    for parse in ALL.iter().filter_map(|adapter| adapter.parse) {
        let (head, tail) = bytes.split_at(usize::from(*cut).min(bytes.len()));
        let (mut whole, mut halves) = (Vec::new(), Vec::new());
        let mut lines = Lines::default();
        lines.push(bytes, |line| whole.extend(parse(line)));
        lines.finish(|line| whole.extend(parse(line)));
        let mut lines = Lines::default();
        lines.push(head, |line| halves.extend(parse(line)));
        lines.push(tail, |line| halves.extend(parse(line)));
        lines.finish(|line| halves.extend(parse(line)));
        assert_eq!(whole, halves);
        for tail in [Tail::Whole(bytes), Tail::Cut(bytes)] {
            let _words = report(&Progress::of(tail, parse, 3));
        }
        let _messages = last_messages(Tail::Cut(bytes), parse, 3);
    }
});
