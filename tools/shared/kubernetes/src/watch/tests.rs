//! Watches against a stand-in: events, and every way in which a watch ends.

use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::standin::{Reply, Server, status};

const PODS: &str = "/api/v1/pods?labelSelector=a%3Db";

fn bookmark(annotations: &Value) -> Value {
    json!({"type": "BOOKMARK", "object": {"metadata": {"annotations": annotations}}})
}

fn event(kind: &str) -> Value {
    json!({"type": kind, "object": {"metadata": {"name": "web"}}})
}

/// Begins a watch with one present object, and returns the sender of its events.
fn begun() -> (Sender<Value>, Reply) {
    let (sender, lines) = channel();
    for line in [event("ADDED"), bookmark(&json!({INITIAL_END: "true"}))] {
        sender.send(line).expect("a receiver");
    }
    (sender, Reply::Lines(lines))
}

fn watches(server: &Server) -> Watches {
    let mut watches = Watches::new(server.client());
    watches.set(&BTreeSet::from([PODS.to_owned()]));
    watches
}

/// Lets the watches proceed until `condition` is true, for at most two seconds.
fn reaches(watches: &Watches, condition: impl Fn(&Watches) -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(2);
    while !condition(watches) && Instant::now() < until {
        watches.drive(Duration::from_millis(5));
    }
    condition(watches)
}

#[test]
fn watch_reports_each_change_after_the_present_objects() {
    let (sender, reply) = begun();
    let mut reply = Some(reply);
    let server = Server::start(move |_, _| reply.take().unwrap_or(Reply::Cut));
    let mut watches = watches(&server);
    assert!(!watches.are_live() && !watches.has_changed());
    assert!(reaches(&watches, |watches| watches.are_live() && watches.has_changed()));
    watches.take();
    assert!(!watches.has_changed(), "the caller reads what was there");
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        sender.send(event(kind)).expect("an open watch");
        assert!(reaches(&watches, Watches::has_changed), "{kind}");
        watches.take();
    }
    sender.send(bookmark(&json!({}))).expect("an open watch");
    watches.drive(Duration::from_millis(50));
    assert!(!watches.has_changed() && watches.are_live(), "a bookmark is no change");
    watches.set(&BTreeSet::from([PODS.to_owned()]));
    let expected = format!("GET {PODS}&{PARAMETERS}");
    assert_eq!(server.requests(), [expected], "a watch that exists continues");
    watches.set(&BTreeSet::new());
    assert!(watches.are_live());
}

// hazard: A watch has ended, or its events are held back, and a wait sleeps until its deadline.
// class: Silence is taken for rest.
// members: 410 Gone, a closed connection, a proxy that buffers or cuts, a server that rejects or ignores
// the parameters, a user without the permission
// now: a watch counts as live only after an event has arrived; while one is not live, the wait polls
#[test]
fn watch_that_ends_is_not_live_until_it_is_open_again() {
    let gone =
        json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")});
    let ends: [fn(Sender<Value>, Value); 3] = [
        |sender, gone| sender.send(gone).expect("an open watch"),
        |sender, _| drop(sender),
        |sender, _| sender.send(json!("no event")).expect("an open watch"),
    ];
    for end in ends {
        let ((first, reply), (second, again)) = (begun(), begun());
        let mut replies = vec![again, reply];
        let server = Server::start(move |_, _| replies.pop().unwrap_or(Reply::Cut));
        let mut watches = watches(&server);
        assert!(reaches(&watches, Watches::are_live));
        watches.take();
        end(first, gone.clone());
        assert!(reaches(&watches, |watches| !watches.are_live()));
        assert!(reaches(&watches, Watches::are_live));
        assert!(watches.has_changed(), "something may have changed meanwhile");
        assert_eq!(server.requests().len(), 2);
        drop(second);
    }
}

#[test]
fn watch_whose_events_do_not_arrive_is_never_live() {
    let answers: [fn() -> Reply; 7] = [
        || Reply::Silent,
        || Reply::Cut,
        // A proxy that buffers passes on the header only.
        || {
            let (sender, lines) = channel();
            std::mem::forget(sender);
            Reply::Lines(lines)
        },
        // A server that ignores `sendInitialEvents`.
        || {
            let (sender, lines) = channel();
            sender.send(event("ADDED")).expect("a receiver");
            std::mem::forget(sender);
            Reply::Lines(lines)
        },
        || Reply::Json(422, status(422, "Invalid", "sendInitialEvents: Forbidden")),
        || Reply::Json(403, status(403, "Forbidden", "cannot watch")),
        || Reply::Text(200, "<html>welcome</html>\n"),
    ];
    for answer in answers {
        let server = Server::start(move |_, _| answer());
        let watches = watches(&server);
        watches.drive(Duration::from_millis(200));
        assert!(!watches.are_live() && !watches.has_changed());
        assert_eq!(server.requests().len(), 1, "it pauses before the next attempt");
    }
}
