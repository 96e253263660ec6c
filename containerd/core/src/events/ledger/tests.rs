use super::*;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000);
const KEY: &str = "default/c";

fn at(nanos: u64) -> Option<Timestamp> {
    Some(Timestamp::from_nanos(nanos))
}

fn ended(pid: u32, status: u32) -> Ended {
    Ended { pid, status, at: Timestamp::from_nanos(u64::from(pid) + 7) }
}

fn exec(name: &str) -> String {
    name.to_owned()
}

/// Judges and applies; answers what was announced.
fn send(ledger: &mut Ledger, step: Step, sent: Option<Timestamp>) -> Vec<Step> {
    let Verdict::Announce(mut steps) = ledger.judge(KEY, &step, sent, NOW) else {
        return Vec::new();
    };
    for missing in &steps {
        ledger.apply(KEY, missing, None);
    }
    ledger.apply(KEY, &step, sent);
    steps.push(step);
    steps
}

use Step::{Create, Delete, ExecAdded, ExecDelete, ExecExit, ExecStarted, Exit, Repeatable, Start};

#[test]
fn the_normal_life_passes_and_its_resends_do_not() {
    let mut ledger = Ledger::default();
    let life = [
        (Create { pid: 5 }, at(1)),
        (Start { pid: 5 }, at(2)),
        (ExecAdded { exec: exec("e") }, at(3)),
        (ExecStarted { exec: exec("e"), pid: 6 }, at(4)),
        (Repeatable, at(5)),
        (ExecExit { exec: exec("e"), ended: ended(6, 0) }, at(6)),
        (Exit(ended(5, 3)), at(7)),
        (Delete(ended(5, 3)), at(8)),
    ];
    for (index, (step, sent)) in life.iter().enumerate() {
        assert_eq!(send(&mut ledger, step.clone(), *sent), std::slice::from_ref(step));
        for (step, sent) in &life[..=index] {
            assert_eq!(send(&mut ledger, step.clone(), *sent), [], "{step:?} again after {index}");
        }
    }
    assert_eq!(ledger.live().count(), 0);
}

#[test]
fn what_is_missing_comes_first() {
    let exit = Exit(ended(5, 3));
    let all = [Create { pid: 5 }, Start { pid: 5 }, exit.clone(), Delete(ended(5, 3))];
    for last in 0..all.len() {
        for first in 0..=last {
            let mut ledger = Ledger::default();
            for step in &all[..first] {
                send(&mut ledger, step.clone(), at(1));
            }
            let announced = send(&mut ledger, all[last].clone(), at(9));
            assert_eq!(announced, all[first..=last], "{first}..={last}");
        }
    }
    let mut ledger = Ledger::default();
    let end = ExecExit { exec: exec("e"), ended: ended(6, 1) };
    let announced = send(&mut ledger, end.clone(), None);
    let started = ExecStarted { exec: exec("e"), pid: 6 };
    assert_eq!(announced, [ExecAdded { exec: exec("e") }, started, end]);
}

#[test]
fn a_delete_ends_what_nobody_saw_end() {
    let mut ledger = Ledger::default();
    send(&mut ledger, Create { pid: 5 }, at(1));
    send(&mut ledger, Start { pid: 5 }, at(2));
    send(&mut ledger, ExecStarted { exec: exec("e"), pid: 6 }, at(3));
    let never = Ended { pid: 5, status: 0, at: Timestamp::ZERO };
    let unknown = |pid| Ended { pid, status: 137, at: NOW };
    assert_eq!(
        send(&mut ledger, Delete(never), at(4)),
        [ExecExit { exec: exec("e"), ended: unknown(6) }, Exit(unknown(5)), Delete(never)]
    );
}

#[test]
fn an_id_is_used_again() {
    let mut ledger = Ledger::default();
    for pid in [5, 8] {
        for step in [Create { pid }, Start { pid }, Exit(ended(pid, 0)), Delete(ended(pid, 0))] {
            assert_eq!(send(&mut ledger, step.clone(), at(pid.into())), [step]);
        }
    }
    send(&mut ledger, Create { pid: 9 }, at(9));
    for late in [Start { pid: 5 }, Exit(ended(8, 0)), Delete(ended(5, 0)), Delete(ended(8, 0))] {
        assert_eq!(send(&mut ledger, late, at(10)), []);
    }
    let exit = Exit(ended(9, 1));
    assert_eq!(send(&mut ledger, exit.clone(), at(11)), [Start { pid: 9 }, exit]);
}

#[test]
fn an_id_is_used_again_and_so_is_its_pid() {
    let mut ledger = Ledger::default();
    for life in [10, 20] {
        let steps = [Create { pid: 5 }, Start { pid: 5 }, Exit(ended(5, 0)), Delete(ended(5, 0))];
        for (after, step) in (0..).zip(steps) {
            assert_eq!(send(&mut ledger, step.clone(), at(life + after)), [step]);
        }
    }
}

#[test]
fn a_create_with_another_pid_closes_the_life_before() {
    let mut ledger = Ledger::default();
    send(&mut ledger, Create { pid: 5 }, at(1));
    send(&mut ledger, Start { pid: 5 }, at(2));
    let gone = Ended { pid: 5, status: 137, at: NOW };
    let create = Create { pid: 8 };
    assert_eq!(send(&mut ledger, create.clone(), at(3)), [Exit(gone), Delete(gone), create]);
    assert_eq!(send(&mut ledger, Exit(ended(5, 0)), at(4)), []);
    let start = Start { pid: 8 };
    assert_eq!(send(&mut ledger, start.clone(), at(5)), [start]);
}

#[test]
fn a_pid_that_is_known_late_or_never() {
    let mut ledger = Ledger::default();
    let restored = [Create { pid: 0 }, Start { pid: 5 }, Exit(ended(5, 0)), Delete(ended(5, 0))];
    for step in restored {
        assert_eq!(send(&mut ledger, step.clone(), at(1)), [step]);
    }
    let none = ended(0, 0);
    for (sent, step) in (2..).zip([Create { pid: 0 }, Start { pid: 0 }, Exit(none), Delete(none)]) {
        assert_eq!(send(&mut ledger, step.clone(), at(sent)), [step]);
    }
}

#[test]
fn an_exec_id_is_used_again() {
    let mut ledger = Ledger::default();
    send(&mut ledger, Create { pid: 5 }, at(1));
    for pid in [6, 7, 6] {
        let ended = Ended { pid, status: 0, at: Timestamp::from_nanos(rand(pid)) };
        let steps = [
            ExecAdded { exec: exec("e") },
            ExecStarted { exec: exec("e"), pid },
            ExecExit { exec: exec("e"), ended },
            ExecDelete { exec: exec("e"), ended },
        ];
        let sent = Some(ended.at);
        for step in steps {
            assert_eq!(send(&mut ledger, step.clone(), sent), std::slice::from_ref(&step));
            assert_eq!(send(&mut ledger, step, sent), []);
        }
    }
}

/// Another number at each call.
fn rand(salt: u32) -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(100);
    NEXT.fetch_add(1, Ordering::Relaxed) * 100 + u64::from(salt)
}

#[test]
fn an_exec_that_never_ran_has_no_exit() {
    let mut ledger = Ledger::default();
    send(&mut ledger, Create { pid: 5 }, at(1));
    send(&mut ledger, ExecAdded { exec: exec("e") }, at(2));
    let delete = ExecDelete { exec: exec("e"), ended: ended(0, 0) };
    assert_eq!(send(&mut ledger, delete.clone(), at(3)), [delete]);
}

#[test]
fn repeatable_events_repeat_and_resends_do_not() {
    let mut ledger = Ledger::default();
    send(&mut ledger, Create { pid: 5 }, at(1));
    assert_eq!(send(&mut ledger, Repeatable, at(2)), [Repeatable]);
    assert_eq!(send(&mut ledger, Repeatable, at(3)), [Repeatable]);
    assert_eq!(send(&mut ledger, Repeatable, at(2)), []);
    send(&mut ledger, Delete(ended(5, 0)), at(4));
    assert_eq!(send(&mut ledger, Repeatable, at(5)), []);
}

#[test]
fn memory_is_bounded() {
    let mut ledger = Ledger::default();
    for pid in 1..=3 * u32::try_from(TOMBSTONES).unwrap() {
        let key = format!("default/{pid}");
        ledger.apply(&key, &Create { pid }, None);
        ledger.apply(&key, &Delete(ended(pid, 0)), None);
    }
    assert_eq!((ledger.entries.len(), ledger.burials.len()), (TOMBSTONES, TOMBSTONES));
    for n in 0..5000u32 {
        let id = format!("e{n}");
        ledger.apply(KEY, &ExecAdded { exec: id.clone() }, at(n.into()));
        ledger.apply(KEY, &ExecExit { exec: id, ended: ended(n, 0) }, None);
        ledger.apply(KEY, &Repeatable, at(n.into()));
    }
    let sizes = ledger.pages().map(|page| serde_json::to_vec(&page).unwrap().len());
    let size: usize = sizes.sum();
    assert!(size < 256 << 10, "{size}");
}

/// Shims that die, forget, resend and reorder, and a daemon that dies between
/// any two announcements: whatever arrives, what is announced is in order and
/// without repetition.
mod storm {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// xorshift64*, so that a failure can be run again by its seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
        }
    }

    /// All lives of one container id, as the shims send them.
    fn script(random: &mut Random) -> Vec<(Step, Option<Timestamp>)> {
        let (mut steps, mut pid) = (Vec::new(), 10);
        for _ in 0..=random.below(3) {
            pid += 1;
            let init = pid;
            steps.push(Create { pid: init });
            steps.push(Start { pid: init });
            for _ in 0..random.below(4) {
                pid += 1;
                // Two names, so that they are used again.
                let exec = format!("e{}", random.below(2));
                steps.push(ExecAdded { exec: exec.clone() });
                steps.push(ExecStarted { exec: exec.clone(), pid });
                steps.push(ExecExit { exec, ended: ended(pid, 1) });
            }
            steps.push(Repeatable);
            steps.push(Exit(ended(init, 2)));
            steps.push(Delete(ended(init, 2)));
        }
        (1u64..).zip(steps).map(|(sent, step)| (step, at(sent))).collect()
    }

    /// Checks the invariant over all that was announced.
    #[derive(Default)]
    struct Witness {
        init: Option<(u32, u8)>,
        execs: BTreeMap<String, (u32, u8)>,
        exits: BTreeSet<(String, u32)>,
        deleted: BTreeSet<u32>,
    }

    impl Witness {
        fn see(&mut self, step: &Step) {
            match step {
                Create { pid } => {
                    assert_eq!(self.init.replace((*pid, 1)), None, "create before delete");
                    assert!(!self.deleted.contains(pid), "{pid} was created twice");
                }
                Start { pid } => assert_eq!(self.init.replace((*pid, 2)), Some((*pid, 1))),
                Exit(end) => {
                    assert_eq!(self.init.replace((end.pid, 3)), Some((end.pid, 2)));
                    assert!(self.exits.insert((String::new(), end.pid)), "second exit");
                }
                Delete(end) => {
                    assert_eq!(self.init.take(), Some((end.pid, 3)));
                    assert!(self.execs.values().all(|exec| exec.1 != 2), "delete before an exit");
                    self.execs.clear();
                    self.deleted.insert(end.pid);
                }
                ExecAdded { exec } => {
                    assert!(
                        self.execs.insert(exec.clone(), (0, 1)).is_none(),
                        "{exec} added twice"
                    );
                }
                ExecStarted { exec, pid } => {
                    assert_eq!(self.execs.insert(exec.clone(), (*pid, 2)), Some((0, 1)));
                }
                ExecExit { exec, ended } => {
                    assert_eq!(self.execs.remove(exec), Some((ended.pid, 2)));
                    assert!(self.exits.insert((exec.clone(), ended.pid)), "second exit");
                }
                ExecDelete { .. } | Repeatable => {}
            }
        }
    }

    fn deliver(ledger: &mut Ledger, witness: &mut Witness, step: &Step, sent: Option<Timestamp>) {
        for step in send(ledger, step.clone(), sent) {
            witness.see(&step);
        }
    }

    fn reload(ledger: &Ledger) -> Ledger {
        let mut again = Ledger::default();
        for page in ledger.pages() {
            let text = serde_json::to_vec(&page).unwrap();
            again.restore(serde_json::from_slice(&text).unwrap());
        }
        again
    }

    /// An outbox like ours: in order, resent from what was not acknowledged.
    #[test]
    fn resends_in_order_announce_each_event_once() {
        for seed in 1..=500 {
            let mut random = Random(seed);
            let script = script(&mut random);
            let (mut ledger, mut witness, mut announced) =
                (Ledger::default(), Witness::default(), Vec::new());
            for index in 0..script.len() {
                let from = index - random.below(3).min(index);
                for (step, sent) in &script[from..=index] {
                    let steps = send(&mut ledger, step.clone(), *sent);
                    steps.iter().for_each(|step| witness.see(step));
                    announced.extend(steps);
                }
                if random.below(4) == 0 {
                    ledger = reload(&ledger);
                }
            }
            let sent: Vec<Step> = script.into_iter().map(|(step, _)| step).collect();
            assert_eq!(announced, sent, "seed {seed}");
        }
    }

    /// Go's publisher: some events are late, some come twice, some never. Only
    /// exits of init are not lost: at boot each shim is asked for them.
    #[test]
    fn losses_and_disorder_never_break_the_order() {
        for seed in 1..=1000 {
            let mut random = Random(seed);
            let mut arrivals = Vec::new();
            for (place, (step, sent)) in script(&mut random).into_iter().enumerate() {
                let exit = matches!(step, Exit(_));
                match random.below(6) {
                    0 | 2 if exit => arrivals.push((place, step, sent)),
                    0 => {}
                    1 => {
                        arrivals.push((place, step.clone(), sent));
                        arrivals.push((place + random.below(8), step, sent));
                    }
                    2 => arrivals.push((place + random.below(4), step, sent)),
                    _ => arrivals.push((place, step, sent)),
                }
            }
            arrivals.sort_by_key(|(place, ..)| *place);
            let (mut ledger, mut witness) = (Ledger::default(), Witness::default());
            let run = std::panic::AssertUnwindSafe(|| {
                for (_, step, sent) in &arrivals {
                    deliver(&mut ledger, &mut witness, step, *sent);
                    if random.below(4) == 0 {
                        ledger = reload(&ledger);
                    }
                }
            });
            assert!(std::panic::catch_unwind(run).is_ok(), "seed {seed}: {arrivals:?}");
        }
    }
}

#[test]
fn a_process_without_a_pid_that_has_ended_does_not_silence_the_next_one() {
    let mut ledger = Ledger::default();
    send(&mut ledger, ExecExit { exec: exec("e"), ended: ended(0, 1) }, None);
    let exit = ExecExit { exec: exec("e"), ended: ended(6, 1) };
    assert_eq!(send(&mut ledger, exit.clone(), at(2)).last(), Some(&exit));

    send(&mut ledger, Delete(ended(0, 137)), None);
    let next = [
        (Create { pid: 5 }, at(10)),
        (Start { pid: 5 }, at(11)),
        (Exit(ended(5, 3)), at(12)),
        (Delete(ended(5, 3)), at(13)),
    ];
    for (step, sent) in next {
        assert_eq!(send(&mut ledger, step.clone(), sent), [step]);
    }
}
