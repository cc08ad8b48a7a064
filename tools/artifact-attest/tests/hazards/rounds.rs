//! Number of requests of a first publication, and length of the chain of requests that wait for one another.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::registries::lock;
use crate::stub::{
    Answer, INDEX, Registry, Request, Sandbox, Server, Test, digest, error, published, text,
};
use serde_json::{Value, json};
use testing::http::listen_to_requests;

/// Time without a new request after which every waiting request is answered. A program on a busy machine needs
/// a part of it to react.
const QUIET: Duration = Duration::from_millis(100);

/// Requests that a server has answered in rounds: all requests of a round were waiting at the same time.
#[derive(Debug, Default)]
struct Rounds {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Requests of each round, in the order of their arrival.
    rounds: Vec<Vec<Request>>,
    waiting: Vec<Request>,
    arrived: Option<Instant>,
    connections: BTreeSet<SocketAddr>,
}

impl Rounds {
    /// Waits until the program sends no further request before it gets an answer.
    fn wait(&self, request: &Request) {
        let mut state = lock(&self.state);
        let round = state.rounds.len();
        state.waiting.push(request.clone());
        state.arrived = Some(Instant::now());
        while state.rounds.len() == round {
            let quiet = state.arrived.map(|arrived| arrived.elapsed()).unwrap_or_default();
            if quiet >= QUIET {
                let waiting = std::mem::take(&mut state.waiting);
                state.rounds.push(waiting);
                self.answered.notify_all();
                return;
            }
            let waited = self.answered.wait_timeout(state, QUIET.saturating_sub(quiet));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take(&self) -> State {
        std::mem::take(&mut *lock(&self.state))
    }
}

/// Starts `registry`, which answers in rounds and keeps connections open.
fn serve(
    registry: &Registry,
    quirk: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
) -> io::Result<(String, Arc<Rounds>)> {
    let (registry, rounds) = (registry.clone(), Arc::<Rounds>::default());
    let shared = Arc::clone(&rounds);
    let address = listen_to_requests("127.0.0.1:0", move |request, stream| {
        lock(&shared.state).connections.insert(stream.peer_addr()?);
        shared.wait(request);
        let answer = quirk(request).unwrap_or_else(|| registry.answer(request));
        answer.write(&request.method, stream)?;
        Ok(true)
    })?;
    Ok((address.to_string(), rounds))
}

/// Answers requests for referrers, as a registry with that API does, and names digests in responses to HEAD.
fn modern(registry: &Registry, request: &Request) -> Option<Answer> {
    if let Some(subject) = request.path.strip_prefix("/v2/test/shared/referrers/") {
        let entries =
            registry.with(|all| {
                let manifests =
                    all.manifests.iter().filter(|((_, name), _)| name.starts_with("sha256:"));
                let referrers = manifests.filter(|(_, (_, bytes))| {
                    let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
                    manifest["subject"]["digest"] == subject
                });
                let entry = |((_, name), (kind, bytes)): (
                    &(String, String),
                    &(String, Vec<u8>),
                )| {
                    json!({"mediaType": kind, "digest": name, "size": bytes.len()})
                };
                referrers.map(entry).collect::<Vec<_>>()
            });
        let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        return Some(Answer::new(200, list.to_string()).with("Content-Type", INDEX));
    }
    let name = request.path.strip_prefix("/v2/test/shared/manifests/")?;
    let key = ("test/shared".to_owned(), name.to_owned());
    let bytes = registry.with(|all| all.manifests.get(&key).map(|(_, bytes)| bytes.clone()))?;
    let is_head = request.method == "HEAD";
    is_head.then(|| Answer::new(200, "").with("Docker-Content-Digest", digest(&bytes)))
}

fn lines(rounds: &[Vec<Request>]) -> String {
    let line = |request: &Request| format!("{} {}", request.method, request.path);
    let round = |round: &Vec<Request>| round.iter().map(line).collect::<Vec<_>>().join(", ");
    rounds.iter().map(round).collect::<Vec<_>>().join("\n")
}

// hazard: A first publication takes three seconds at a round trip of 50 ms, because 49 requests wait for one
// another.
// class: Requests are sent one after the other, although none needs the answer to another.
// members: blobs, bundles, signatures, lists, tags, the observations before and after
// now: four requests are under way at a time, on four connections, and tags move last
#[test]
fn a_first_publication_takes_few_requests_in_few_rounds_and_moves_tags_last() -> Test {
    // Limits of requests and rounds. A busy machine may stop the program for a tenth of a second, which adds
    // a round.
    for (is_modern, requests_max, rounds_max) in [(false, 43, 18), (true, 43, 17)] {
        first_publication(is_modern, requests_max, rounds_max)?;
    }
    Ok(())
}

fn first_publication(is_modern: bool, requests_max: usize, rounds_max: usize) -> Test {
    let registry = Registry::default();
    let shared = registry.clone();
    let quirk = move |request: &Request| is_modern.then(|| modern(&shared, request)).flatten();
    let (address, rounds) = serve(&registry, quirk)?;
    let sandbox = Sandbox::new(&address)?;
    let input = sandbox.one() + "  tags: [latest]\n";
    let applied = sandbox.expect(0, "apply", &input)?;
    let State { rounds: all, connections, .. } = rounds.take();
    let said = lines(&all);
    let requests: Vec<_> = all.iter().flatten().collect();
    assert!(requests.len() <= requests_max, "{} requests\n{said}", requests.len());
    assert!(all.len() <= rounds_max, "{} rounds\n{said}", all.len());
    let most = all.iter().map(Vec::len).max().unwrap_or_default();
    assert!((3..=4).contains(&most), "{most} requests at the same time\n{said}");
    // On a busy machine, a request may begin before an idle connection is back in the pool.
    assert!(connections.len() <= 6, "{} connections", connections.len());

    // A blob is there before its manifest, everything before a tag, and a tag before the next one.
    let is_put =
        |request: &Request| request.method == "PUT" && request.path.contains("/manifests/");
    let puts: Vec<Vec<_>> =
        all.iter().map(|round| round.iter().filter(|r| is_put(r)).collect()).collect();
    let puts: Vec<_> = puts.into_iter().filter(|round| !round.is_empty()).collect();
    let names = |round: &[&Request]| -> Vec<String> {
        round.iter().map(|put| put.path.rsplit('/').next().unwrap_or_default().to_owned()).collect()
    };
    let [.., before, tag, latest] = puts.as_slice() else { panic!("{said}") };
    assert_eq!(names(latest), ["latest"], "{said}");
    assert_eq!(names(tag).len(), 1, "{said}");
    assert!(!names(tag)[0].starts_with("sha256"), "{said}");
    assert!(names(before).iter().all(|name| name.starts_with("sha256")), "{said}");

    // A second run writes nothing.
    sandbox.expect(0, "apply", &text(&applied))?;
    let is_write = |request: &&Request| !matches!(request.method.as_str(), "GET" | "HEAD");
    let again = rounds.take().rounds;
    assert_eq!(again.iter().flatten().filter(is_write).count(), 0, "{}", lines(&again));
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}

// hazard: One of several parallel uploads fails, and the others go on to a published tag.
// class: An error of one request does not reach the others.
// members: blobs of the artifact, bundles, manifests of bundles, the older signature, the list
// now: no request begins after an error, and no tag names what is not complete
#[test]
fn an_error_of_any_parallel_write_is_reported_and_nothing_later_is_published() -> Test {
    for faulty in 0.. {
        let (registry, count) = (Registry::default(), AtomicUsize::new(0));
        let kept = registry.clone();
        let server = Server::start("127.0.0.1:0", move |request| {
            let is_faulty = request.method == "PUT" && count.fetch_add(1, SeqCst) == faulty;
            let answer = || kept.answer(request);
            Some(if is_faulty { error(400, "UNSUPPORTED", "not today") } else { answer() })
        })?;
        let sandbox = Sandbox::new(&server.address)?;
        let run = sandbox.run("apply", &sandbox.one(), &[])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        if run.status.code() == Some(0) {
            assert!(faulty >= 12, "{faulty} writes");
            return Ok(());
        }
        assert_eq!(run.status.code(), Some(100), "{faulty}: {said}");
        assert_eq!(said.matches("UNSUPPORTED not today").count(), 1, "{faulty}: {said}");
        let is_tag = |name: &String| !name.starts_with("sha256");
        assert!(!registry.names("test/shared").iter().any(is_tag), "{faulty}: nothing is tagged");

        // The same command completes the publication when the fault is over.
        let applied = sandbox.expect(0, "apply", &sandbox.one())?;
        assert_eq!(registry.listed("test/shared", published(&applied[1])?).len(), 2, "{faulty}");
    }
    Ok(())
}
