//! Requests against a stand-in: repetitions, deadlines, pages and texts of errors.

use std::net::TcpListener;

use documents::{Diagnostic as _, Reason};
use serde_json::{Value, json};

use super::*;
use crate::list;
use crate::standin::{Reply, SETTINGS, Server, TOKEN, client, status};

const PATH: &str = "/api/v1/namespaces/default";

fn object() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
}

/// Names of a list's items.
fn names(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

/// Page `number` of three, each with one object.
fn page(number: usize) -> Reply {
    let next = if number < 3 { format!("token-{}", number + 1) } else { String::new() };
    let items = json!([{"metadata": {"name": format!("item-{number}")}}]);
    Reply::Json(200, json!({"kind": "List", "metadata": {"continue": next}, "items": items}))
}

/// Returns the number of the page that a request asks for.
fn asked(path: &str) -> usize {
    match path.split_once("continue=token-") {
        Some((_, number)) => number.parse().expect("a number"),
        None => 1,
    }
}

#[test]
fn list_is_read_from_all_pages() {
    let server = Server::start(|_, path| page(asked(path)));
    let request = Request::get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn");
    let items = list::all(&server.client(), &request).expect("a list");
    assert_eq!(names(&items), ["item-1", "item-2", "item-3"]);
    let first = "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn&limit=500";
    let next = |number: usize| format!("{first}&continue=token-{number}");
    assert_eq!(server.requests(), [first.to_owned(), next(2), next(3)]);
}

// hazard: A long list is cut off, or two snapshots are mixed, and a missing object counts as deleted.
// class: Unknown is taken for absent.
// members: lists of one page, an expired token, an answer without items, a token that never ends
// now: every page is read; after 410 the list begins again; after four times it is an error, exit 111
#[test]
fn list_begins_again_when_its_snapshot_expires_between_two_pages() {
    let mut has_expired = false;
    let server = Server::start(move |_, path| {
        if asked(path) == 2 && !has_expired {
            has_expired = true;
            return Reply::Json(410, status(410, "Expired", "the provided continue is too old"));
        }
        page(asked(path))
    });
    let items = list::all(&server.client(), &Request::get("/api/v1/pods")).expect("a list");
    assert_eq!(names(&items), ["item-1", "item-2", "item-3"]);
    let pages: Vec<_> = server.requests().iter().map(|request| asked(request)).collect();
    assert_eq!(pages, [1, 2, 1, 2, 3]);
}

#[test]
fn list_whose_snapshot_expires_every_time_is_an_error() {
    let server = Server::start(|_, path| match asked(path) {
        1 => page(1),
        _ => Reply::Json(410, status(410, "Expired", "too old")),
    });
    let error = list::all(&server.client(), &Request::get("/a")).expect_err("it never ends");
    assert!(error.is_transient() && matches!(error, Error::Gone { .. }), "{error}");
    assert_eq!(server.requests().len(), 8);
}

#[test]
fn answer_that_is_no_list_is_not_an_empty_list() {
    let no_list = [json!({}), json!({"items": null}), json!({"items": {}}), json!([])];
    for body in no_list {
        let text = body.to_string();
        let server = Server::start(move |_, _| Reply::Json(200, body.clone()));
        let end = list::all(&server.client(), &Request::get("/a"));
        assert!(matches!(end, Err(Error::InvalidResponse { .. })), "{text}");
    }
    // Metadata without items, as the API server writes them.
    let empty = json!({"metadata": {"resourceVersion": "1"}, "items": null});
    let server = Server::start(move |_, _| Reply::Json(200, empty.clone()));
    assert!(list::all(&server.client(), &Request::get("/a")).expect("a list").is_empty());
}

// hazard: The restart of an API server ends a run that was waiting.
// class: A passing failure counts as a permanent one.
// members: dropped connections, no connection, 429, 500 from etcd, silence
// now: a read is repeated for ten seconds once the server has answered; a write only if that is safe
#[test]
fn read_outlasts_an_outage_of_three_seconds() {
    let mut began = None;
    let server = Server::start(move |_, path| {
        if path == "/first" {
            return Reply::Json(200, object());
        }
        let began: &Instant = began.get_or_insert_with(Instant::now);
        if began.elapsed() < Duration::from_secs(3) {
            return Reply::Cut;
        }
        Reply::Json(200, object())
    });
    let client = server.client();
    client.get(&Request::get("/first")).expect("the first answer");
    let began = Instant::now();
    let found = client.get(&Request::get(PATH)).expect("the answer after the outage");
    assert_eq!(found, Some(object()));
    assert!(began.elapsed() >= Duration::from_secs(3));
    let count = server.requests().len();
    assert!((3..20).contains(&count), "{count} requests");
}

#[test]
fn server_that_has_never_answered_is_not_asked_again() {
    let began = Instant::now();
    let error = client("http://127.0.0.1:1").expect("a client").get(&Request::get(PATH));
    let error = error.expect_err("no server");
    assert!(matches!(error, Error::Unreachable { was_sent: false, .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn every_request_ends_at_its_deadline() {
    let server = Server::start(|_, _| Reply::Silent);
    let began = Instant::now();
    let error = server.client().get(&Request::get(PATH)).expect_err("silence");
    assert!(matches!(error, Error::TimedOut { seconds: 1, .. }), "{error}");
    assert!(error.is_transient() && error.is_ambiguous());
    assert!(began.elapsed() < SETTINGS.deadline * 3);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn rate_limit_is_waited_for_as_long_as_the_server_names() {
    let mut is_first = true;
    let server = Server::start(move |_, _| {
        if std::mem::take(&mut is_first) {
            let limited = status(429, "TooManyRequests", "too many requests");
            return Reply::With(429, "Retry-After: 1", limited);
        }
        Reply::Json(201, object())
    });
    // The API server has not processed a limited request, so that even a creation is repeated.
    let began = Instant::now();
    server.client().change(&Change::create("/api/v1/namespaces", &object())).expect("created");
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn rate_limit_that_takes_too_long_is_reported_with_its_pause() {
    let server = Server::start(|_, _| {
        let limited = status(429, "TooManyRequests", "too many requests");
        Reply::With(429, "Retry-After: 3600", limited)
    });
    let began = Instant::now();
    let error = server.client().get(&Request::get(PATH)).expect_err("limited");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(error.help().as_deref(), Some("run the same command again in 3600 s"));
    assert_eq!((error.reason(), error.is_transient()), (Reason::RateLimited, true));
}

#[test]
fn failed_write_is_repeated_only_where_that_has_the_same_effect() {
    let uid = json!({"preconditions": {"uid": "1"}});
    let changes = [
        (Change::apply(PATH, &object()), 2),
        (Change::merge(PATH, &object()), 2),
        (Change::delete(PATH, &uid), 2),
        (Change::delete(PATH, &json!({})), 1),
        (Change::create("/api/v1/namespaces", &object()), 1),
        (Change::replace(PATH, &object()), 1),
        (Change::json_patch(PATH, &json!([])), 1),
        (Change::evict("/eviction", &object()), 1),
    ];
    for (change, times) in changes {
        let mut is_first = true;
        let server = Server::start(move |_, _| {
            if std::mem::take(&mut is_first) {
                return Reply::Json(500, status(500, "InternalError", "etcd: leader changed"));
            }
            Reply::Json(200, object())
        });
        let end = server.client().change(&change);
        assert_eq!((end.is_ok(), server.requests().len()), (times == 2, times), "{change:?}");
    }
}

#[test]
fn write_whose_response_is_lost_is_left_to_the_engine() {
    let server = Server::start(|_, path| match path {
        "/first" => Reply::Json(200, object()),
        _ => Reply::Cut,
    });
    let client = server.client();
    client.get(&Request::get("/first")).expect("the first answer");
    let error = client.change(&Change::apply(PATH, &object())).expect_err("lost");
    assert!(matches!(error, Error::Unreachable { was_sent: true, .. }), "{error}");
    assert!(error.is_ambiguous());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn write_that_found_no_connection_is_sent_once_the_server_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = client(&format!("http://{address}")).expect("a client");
    drop(listener);
    // As after an answer of the server that is restarting now.
    client.kubeconfig.has_answered.store(true, Ordering::Relaxed);
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        let listener = TcpListener::bind(address).expect("the same port");
        Server::on(listener, |_, _| Reply::Json(201, object()))
    });
    client.change(&Change::create("/api/v1/namespaces", &object())).expect("created");
    let server = later.join().expect("the server");
    let created = "POST /api/v1/namespaces?fieldValidation=Strict&fieldManager=a-test";
    assert_eq!(server.requests(), [created]);
}

// hazard: The dry run of a deletion deletes the object, before its data may go and before Flux is suspended.
// class: A parameter is written where the server does not read it.
// members: create and apply (query), deletion with options (body)
// now: a deletion has the mark in its body, too
#[test]
fn dry_run_is_marked_where_the_server_reads_it() {
    let precise = json!({"preconditions": {"uid": "1"}});
    let exchange = Change::delete(PATH, &precise).0.as_dry_run();
    let options: Value = serde_json::from_slice(&exchange.body).expect("options");
    assert_eq!(options["dryRun"], json!(["All"]), "the API server ignores the query beside a body");
    assert_eq!(options["preconditions"]["uid"], "1");

    let server = Server::start(|_, _| Reply::Json(200, object()));
    let client = server.client();
    client.dry_run(&Change::create("/api/v1/namespaces", &object())).expect("admitted");
    client.dry_run(&Change::delete(PATH, &json!({}))).expect("admitted");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.ends_with("dryRun=All")), "{requests:?}");
}

// hazard: An error that is published in a log quotes the token of the cluster.
// class: A text of others is shown unread.
// members: messages of the API server and of admission webhooks, values of Secrets, a proxy's page
// now: credentials of the kubeconfig are replaced; of an answer about a Secret only the reason is shown
#[test]
fn error_that_echoes_a_credential_is_redacted() {
    for code in [400, 401, 403, 404, 409, 410, 422, 429, 500] {
        let server = Server::start(move |_, _| {
            let message = format!("invalid header: Bearer {TOKEN}, and {TOKEN} again");
            Reply::Json(code, status(code, "NotFound", &message))
        });
        let end = server.client().change(&Change::create(PATH, &object()));
        let error = end.expect_err("an error");
        let texts = format!("{error} {error:?} {:?}", error.help());
        assert!(!texts.contains(TOKEN), "{code}: {texts}");
        assert!(texts.contains("[redacted]"), "{code}: {texts}");
    }
    let server =
        Server::start(|_, _| Reply::Json(422, status(422, "Invalid", "Invalid value: s3cr3t")));
    let path = "/api/v1/namespaces/n/secrets/s";
    let error = server.client().change(&Change::apply(path, &object())).expect_err("invalid");
    assert!(error.to_string().ends_with("Invalid (code 422)"), "{error}");
}

#[test]
fn absent_object_is_told_from_an_answer_of_another_server() {
    let absent = |_: &str, _: &str| Reply::Json(404, status(404, "NotFound", "not found"));
    let server = Server::start(absent);
    assert_eq!(server.client().get(&Request::get(PATH)).expect("an answer"), None);
    let server = Server::start(|_, _| Reply::Text(404, "404 page not found\n"));
    let error = server.client().get(&Request::get(PATH)).expect_err("another server");
    assert_eq!((error.reason(), error.is_transient()), (Reason::InvalidResponse, false));
    let optional = Request::get("/apis/example.org/v1/things").of_optional_api();
    assert_eq!(server.client().get(&optional).expect("no such API"), None);
    for text in ["", "<html>welcome</html>", "[]", "{\"metadata\": 1}"] {
        let server = Server::start(move |_, _| Reply::Text(200, text));
        let end = server.client().get(&Request::get(PATH));
        assert!(matches!(end, Err(Error::InvalidResponse { .. })), "{text}");
    }
    let server = Server::start(|_, _| Reply::Text(302, ""));
    let end = server.client().get(&Request::get(PATH));
    assert!(matches!(end, Err(Error::InvalidResponse { .. })), "a redirect is not followed");
}
