//! The gRPC API of containerd 0.0.4, driven by a client made from its proto.

mod calls;
mod death;
mod life;
mod refusals;

use death::{
    daemon_dies_while_containers_are_made, daemon_dies_while_containers_run, many_at_once,
    what_failed_to_start_is_ended,
};
use life::{
    bundle_as_runc_makes_it, containers_that_ended_make_room, ends_follow_their_output,
    every_method, other_apis_see_the_same_containers, out_of_memory_is_told,
    streams_are_files_or_fifos, terminal_of_the_client,
};
use refusals::{
    checkpoints_are_listed_and_removed, failed_starts_leave_nothing, nonsense_is_refused,
};

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    every_method,
    streams_are_files_or_fifos,
    ends_follow_their_output,
    terminal_of_the_client,
    other_apis_see_the_same_containers,
    daemon_dies_while_containers_run,
    containers_that_ended_make_room,
    checkpoints_are_listed_and_removed,
    nonsense_is_refused,
    failed_starts_leave_nothing,
    many_at_once,
    daemon_dies_while_containers_are_made,
    what_failed_to_start_is_ended,
    out_of_memory_is_told,
    bundle_as_runc_makes_it,
);

tests::pairing!(
    our_daemon,
    tests::Pairing::OUR_DAEMON,
    every_method,
    daemon_dies_while_containers_run,
);

tests::pairing!(ours_with_runc, tests::Pairing::OURS_WITH_RUNC, every_method);
