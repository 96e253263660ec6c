//! Programs that are run along a container's life.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bed, text};

/// A hook that notes its name and what it was told of the container.
fn hook(bed: &Bed, name: &str) -> Value {
    let notes = bed.path("notes");
    let script = format!(
        "read state; echo \"{name} $A $(echo $state | sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/')\" >>{}",
        notes.display()
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b", "PATH=/bin:/usr/bin"]}])
}

#[test]
fn each_at_its_time() {
    let Some(bed) = Bed::new("hooks", "echo program >>/notes") else { return };
    let (prestart, runtime) = (hook(&bed, "prestart"), hook(&bed, "createRuntime"));
    let (container, poststart) = (hook(&bed, "createContainer"), hook(&bed, "poststart"));
    let poststop = hook(&bed, "poststop");
    // Inside there are other paths.
    let start = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer >>/notes"]}]);
    let bed = bed
        .set("/hooks/prestart", prestart)
        .set("/hooks/createRuntime", runtime)
        .set("/hooks/createContainer", container)
        .set("/hooks/startContainer", start)
        .set("/hooks/poststart", poststart)
        .set("/hooks/poststop", poststop);
    // Those of a list are called in its order.
    let bed = ["prestart", "poststart", "poststop"].into_iter().fold(bed, |bed, list| {
        let next = hook(&bed, &format!("{list}-2"))[0].clone();
        bed.add(&format!("/hooks/{list}"), next)
    });
    bed.output();
    let notes = fs::read_to_string(bed.path("notes")).unwrap();
    let lines = "prestart b creating\nprestart-2 b creating\ncreateRuntime b creating\n\
                 createContainer b creating\npoststart b running\npoststart-2 b running\n\
                 poststop b stopped\npoststop-2 b stopped\n";
    assert_eq!(notes, lines);
    let inside = fs::read_to_string(bed.path("rootfs/notes")).unwrap();
    assert_eq!(inside, "startContainer\nprogram\n");
}

#[test]
fn one_that_fails_ends_the_container() {
    for list in ["prestart", "createRuntime", "createContainer"] {
        let Some(bed) = Bed::new(&format!("hook-{list}"), "true") else { return };
        let (after, notes) = (hook(&bed, "poststop"), bed.path("notes"));
        let bed = bed
            .set(&format!("/hooks/{list}"), json!([{"path": "/bin/false"}]))
            .set("/hooks/poststop", after);
        let words = bed.refusal();
        assert!(words.contains("hook"), "{list}: {words}");
        // Others may have made something before.
        assert_eq!(fs::read_to_string(notes).unwrap(), "poststop b stopped\n");
    }
}

#[test]
fn one_that_comes_too_late_changes_nothing() {
    let Some(bed) = Bed::new("hook-late", "echo ran") else { return };
    let bed = bed
        .set("/hooks/poststart", json!([{"path": "/bin/false"}]))
        .set("/hooks/poststop", json!([{"path": "/no/such/program"}]));
    let output = bed.run();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "ran\n");
    // But the log says so.
    let log = text(&output.stderr);
    for list in ["poststart", "poststop"] {
        let line = log.lines().find(|line| line.contains(&format!("hooks.{list}")));
        assert!(line.is_some_and(|line| line.contains("level=warning")), "{list}: {log}");
    }
}

/// The program is there by then, and not what is on its way to becoming it.
#[test]
fn one_after_the_start_finds_the_program() {
    let Some(bed) = Bed::new("hook-exec", "sleep 1000") else { return };
    let notes = bed.path("notes");
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/exe >{}",
        notes.display()
    );
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]);
    let bed = bed.set("/hooks/poststart", hook);
    bed.start();
    let program = fs::read_to_string(notes).unwrap();
    assert!(program.ends_with("busybox\n"), "{program}");
}

/// They are told of the process that they run in the place of, by its pid as
/// they see it, and how far it is.
#[test]
fn inside_they_see_the_container_as_it_is() {
    let Some(bed) = Bed::new("hook-state", "echo program") else { return };
    let outside = bed.path("outside");
    let save = |path: String, words: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >{path}; {words}")]}]);
    let bed = bed
        .set("/hooks/createContainer", save(outside.display().to_string(), "echo words >&2"))
        .set("/hooks/startContainer", save("/inside".into(), "true"))
        .set("/process/noNewPrivileges", json!(true));
    let output = bed.run();
    for (path, status) in [(outside, "creating"), (bed.path("rootfs/inside"), "created")] {
        let state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&state["status"], &state["pid"]), (&json!(status), &json!(1)), "{path:?}");
        assert_eq!(state["id"], json!(bed.id));
    }
    assert_eq!(crate::harness::text(&output.stdout), "program\n");
}
