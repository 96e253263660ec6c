//! The order of announcements, for each order of what happens.

use super::Announcement::*;
use super::*;
use shim_protocol::ErrorKind;
use std::time::UNIX_EPOCH;

const EXIT: Exit = Exit { status: 7, at: UNIX_EPOCH };

fn id(text: &str) -> Id {
    Id::new("exec id", text).unwrap()
}

fn running() -> Lifecycle {
    let mut life = Lifecycle::new(Some(1));
    life.begin_start(None).unwrap();
    assert_eq!(life.started(None, 1).unwrap(), [Started(None, 1)]);
    life
}

fn with_exec(name: &str, pid: u32) -> (Lifecycle, Id) {
    let (mut life, id) = (running(), id(name));
    life.add_exec(&id).unwrap();
    life.begin_start(Some(&id)).unwrap();
    assert_eq!(life.started(Some(&id), pid).unwrap(), [Started(Some(id.clone()), pid)]);
    (life, id)
}

#[test]
fn a_plain_life() {
    let mut life = running();
    assert_eq!(life.reaped(None, EXIT), [Exited(None, 1, EXIT)]);
    assert_eq!(life.snapshot(None).unwrap().exit, Some(EXIT));
    life.begin_delete(None).unwrap();
    assert_eq!(life.deleted(), [Deleted(1, Some(EXIT))]);
}

#[test]
fn exactly_one_exit() {
    let mut life = running();
    assert_eq!(life.reaped(None, EXIT).len(), 1);
    assert_eq!(life.reaped(None, Exit { status: 9, ..EXIT }), []);
    assert_eq!(life.snapshot(None).unwrap().exit, Some(EXIT));
}

#[test]
fn an_exit_during_the_start_waits_for_it() {
    let mut life = Lifecycle::new(Some(1));
    life.begin_start(None).unwrap();
    assert_eq!(life.reaped(None, EXIT), []);
    assert_eq!(life.snapshot(None).unwrap().exit, None);
    assert_eq!(life.started(None, 1).unwrap(), [Started(None, 1), Exited(None, 1, EXIT)]);
}

#[test]
fn an_exit_without_a_start_is_announced_started_first() {
    let mut life = Lifecycle::new(Some(1));
    assert_eq!(life.reaped(None, EXIT), [Started(None, 1), Exited(None, 1, EXIT)]);
    let mut life = Lifecycle::new(Some(1));
    life.begin_start(None).unwrap();
    life.reaped(None, EXIT);
    assert_eq!(life.start_failed(None).unwrap(), [Started(None, 1), Exited(None, 1, EXIT)]);
}

#[test]
fn a_failed_start_may_be_tried_again() {
    let mut life = Lifecycle::new(Some(1));
    life.begin_start(None).unwrap();
    assert_eq!(life.begin_start(None).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(life.start_failed(None).unwrap(), []);
    life.begin_start(None).unwrap();
}

#[test]
fn init_waits_for_its_execs() {
    let (mut life, exec) = with_exec("e", 2);
    assert_eq!(life.reaped(None, EXIT), []);
    assert!(life.is_init_gone());
    assert_eq!(
        life.reaped(Some(&exec), EXIT),
        [Exited(Some(exec), 2, EXIT), Exited(None, 1, EXIT)]
    );
}

#[test]
fn init_waits_for_an_exec_that_is_being_started() {
    for succeeds in [true, false] {
        let (mut life, exec) = (running(), id("e"));
        life.add_exec(&exec).unwrap();
        life.begin_start(Some(&exec)).unwrap();
        assert_eq!(life.reaped(None, EXIT), []);
        if succeeds {
            assert_eq!(life.started(Some(&exec), 2).unwrap(), [Started(Some(exec.clone()), 2)]);
            assert_eq!(
                life.reaped(Some(&exec), EXIT),
                [Exited(Some(exec), 2, EXIT), Exited(None, 1, EXIT)]
            );
        } else {
            assert_eq!(life.start_failed(Some(&exec)).unwrap(), [Exited(None, 1, EXIT)]);
        }
    }
}

#[test]
fn an_exec_that_ends_during_its_start_keeps_the_order() {
    let (mut life, exec) = (running(), id("e"));
    assert_eq!(life.add_exec(&exec).unwrap(), [ExecAdded(exec.clone())]);
    life.begin_start(Some(&exec)).unwrap();
    assert_eq!(life.reaped(None, EXIT), []);
    assert_eq!(life.reaped(Some(&exec), EXIT), []);
    assert_eq!(
        life.started(Some(&exec), 2).unwrap(),
        [Started(Some(exec.clone()), 2), Exited(Some(exec), 2, EXIT), Exited(None, 1, EXIT)]
    );
}

#[test]
fn init_is_announced_once_what_it_left_is_ended() {
    let (mut life, exec) = with_exec("e", 2);
    life.init_ending(EXIT);
    assert!(life.is_init_gone());
    assert_eq!(life.add_exec(&id("late")).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(life.reaped(Some(&exec), EXIT), [Exited(Some(exec), 2, EXIT)]);
    assert_eq!(life.reaped(None, EXIT), [Exited(None, 1, EXIT)]);
}

#[test]
fn no_exec_in_a_dying_container() {
    let (mut life, running_exec) = with_exec("e", 2);
    let added = id("added");
    life.add_exec(&added).unwrap();
    life.reaped(None, EXIT);
    for error in
        [life.add_exec(&id("late")).unwrap_err(), life.begin_start(Some(&added)).unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }
    // An exec that never ran keeps nobody waiting.
    assert_eq!(life.reaped(Some(&running_exec), EXIT).len(), 2);
}

#[test]
fn exec_ids_are_unique_until_deleted() {
    let (mut life, exec) = with_exec("e", 2);
    assert_eq!(life.add_exec(&exec).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(life.begin_delete(Some(&exec)).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    life.reaped(Some(&exec), EXIT);
    life.begin_delete(Some(&exec)).unwrap();
    life.forget_exec(&exec);
    assert!(life.snapshot(Some(&exec)).unwrap_err().is_not_found());
    life.add_exec(&exec).unwrap();
}

#[test]
fn execs_are_frozen_with_their_container() {
    let (mut life, exec) = with_exec("e", 2);
    life.step(State::begin_pause).unwrap();
    assert_eq!(life.paused().unwrap(), [Paused]);
    assert_eq!(life.snapshot(Some(&exec)).unwrap().state, State::Paused);
    life.step(State::begin_resume).unwrap();
    assert_eq!(life.resumed().unwrap(), [Resumed]);
    assert_eq!(life.snapshot(Some(&exec)).unwrap().state, State::Running);
}

#[test]
fn a_pause_that_the_end_overtakes_is_refused() {
    let mut life = running();
    life.step(State::begin_pause).unwrap();
    assert_eq!(life.reaped(None, EXIT), [Exited(None, 1, EXIT)]);
    assert_eq!(life.paused().unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn waiting_ends_with_the_exit_and_with_the_deletion() {
    let (mut life, exec) = with_exec("e", 2);
    let ended = life.subscribe(Some(&exec)).unwrap();
    life.reaped(Some(&exec), EXIT);
    assert_eq!(*ended.borrow(), Some(EXIT));
    let added = id("added");
    life.add_exec(&added).unwrap();
    let never = life.subscribe(Some(&added)).unwrap();
    life.forget_exec(&added);
    assert!(never.has_changed().is_err());
}

#[test]
fn a_failed_delete_may_be_tried_again() {
    let mut life = running();
    life.reaped(None, EXIT);
    life.begin_delete(None).unwrap();
    assert_eq!(life.begin_delete(None).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    life.delete_failed(None);
    assert_eq!(life.begin_delete(None).unwrap().exit, Some(EXIT));
}
