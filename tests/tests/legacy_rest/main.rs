//! The REST API of 2015, used as its README showed: with curl.

mod curl;
mod description;
mod life;
mod readme;
mod refusals;
mod stops;

use description::description_is_true;
use life::{
    daemon_dies_while_containers_run, off_unless_asked_for, output_goes_to_files, slow_subscriber,
    unix_socket,
};
use readme::{
    a_checkpoint_that_fails_leaves_nothing, checkpoints_are_made_and_gone_on_from, readme_of_2015,
};
use refusals::{
    big_requests_are_refused, browsers_are_refused, listeners_leave_room_for_others,
    nonsense_is_refused,
};
use stops::a_daemon_may_stop_while_a_checkpoint_is_made;

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    readme_of_2015,
    daemon_dies_while_containers_run,
    output_goes_to_files,
    nonsense_is_refused,
    big_requests_are_refused,
    browsers_are_refused,
    listeners_leave_room_for_others,
    slow_subscriber,
    unix_socket,
    off_unless_asked_for,
    description_is_true,
);

tests::with_criu!(
    runc,
    tests::Pairing::OURS_WITH_RUNC,
    checkpoints_are_made_and_gone_on_from,
    a_checkpoint_that_fails_leaves_nothing,
    a_daemon_may_stop_while_a_checkpoint_is_made,
);
