//! A first publication beside crane and cosign, on this machine and at a distance of 50 ms.
//! `tasks/bench publish` prints the figures.

#[path = "hazards/stub.rs"]
#[allow(dead_code, unused_imports, reason = "this test needs the sandbox alone")]
mod stub;
mod support;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use stub::{Sandbox, Test};
use support::{Server, tool};
use testing::delay::listen_far_away;
use testing::http::listen;

/// Round-trip time from a runner of GitHub to a registry in another region.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Longest time of a publication at that distance, as a part of the time of crane and cosign. Programs that
/// tests build are slower, and share the machine with other tests.
const RATIO_MAX: f64 = if cfg!(debug_assertions) { 0.5 } else { 0.35 };
/// Number of measurements, of which the fastest counts: any other one waited for another test.
const MEASUREMENTS: usize = 3;

/// Requests of all connections to a server, as bytes.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<u8>>>);

impl Sent {
    /// Forwards connections to the server at `to`, and keeps what clients send.
    fn listen(&self, to: &str) -> io::Result<SocketAddr> {
        let (sent, to) = (self.clone(), to.to_owned());
        listen("127.0.0.1:0", move |client| drop(sent.forward(client, &to)))
    }

    fn forward(&self, mut client: TcpStream, to: &str) -> io::Result<()> {
        let mut server = TcpStream::connect(to)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut answers, &mut back); // a cut connection ends with its client
            let _ = back.shutdown(Shutdown::Write);
        });
        let mut chunk = vec![0; 64 << 10];
        while let Ok(length @ 1..) = client.read(&mut chunk) {
            let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            sent.extend_from_slice(&chunk[..length]);
            drop(sent);
            server.write_all(&chunk[..length])?;
        }
        server.shutdown(Shutdown::Write)
    }

    /// Returns the number of requests and of bytes since the last call.
    fn take(&self) -> (usize, usize) {
        let sent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let end = b" HTTP/1.1\r\n".as_slice();
        (sent.windows(end.len()).filter(|window| *window == end).count(), sent.len())
    }
}

/// Publishes a small image with crane, and signs it with cosign. Returns the times of the publication with one
/// attestation, and with two.
fn crane_and_cosign(image: &str, folder: &Path) -> Test<(Duration, Duration)> {
    let began = Instant::now();
    let append = ["--insecure", "append", "--oci-empty-base", "-f", "layer.tar", "-t", image];
    let published = tool("crane", &append, folder)?;
    let reference = published.trim();
    let cosign = |arguments: &[&str]| {
        let line = "--allow-http-registry --allow-insecure-registry -y --key peer.key --signing-config signing.json";
        let more: Vec<_> = line.split(' ').chain([reference]).collect();
        tool("env", &[&["COSIGN_PASSWORD=", "cosign"], arguments, &more].concat(), folder).map(drop)
    };
    cosign(&["sign"])?;
    cosign(&["attest", "--predicate", "predicate.json", "--type", "slsaprovenance1"])?;
    let one = began.elapsed();
    cosign(&["attest", "--predicate", "predicate.json", "--type", "cyclonedx"])?;
    Ok((one, began.elapsed()))
}

// hazard: A publication to a registry in another region takes as long as crane and cosign one after the other.
// class: Requests are sent one after the other, although none needs the answer to another.
// members: blobs, bundles, signatures, the observations before and after
// now: at 50 ms, a third of the time of crane and cosign
#[test]
fn a_first_publication_takes_a_part_of_the_time_of_crane_and_cosign() -> Test {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let server = Server::docker("127.75.2.1:5000", folder, true)?;
    let sent = Sent::default();
    let near = sent.listen(&server.1)?;
    let far = listen_far_away("127.0.0.1:0", near, ROUND_TRIP)?;
    fs::write(folder.join("map.yaml"), "kind: ConfigMap\ndata: {of: a}\n")?;
    fs::write(folder.join("predicate.json"), r#"{"buildDefinition":{},"runDetails":{}}"#)?;
    tool("tar", &["-cf", "layer.tar", "map.yaml"], folder)?;
    let pair = ["COSIGN_PASSWORD=", "cosign", "generate-key-pair", "--output-key-prefix", "peer"];
    tool("env", &pair, folder)?;
    fs::write(folder.join("signing.json"), tool("cosign", &["signing-config", "create"], folder)?)?;

    let mut ratios = Vec::new();
    for (name, address) in [("this machine", near), ("50 ms", far)] {
        let sandbox = Sandbox::new(&address.to_string())?;
        let (mut ours, mut one, mut two) = (Duration::MAX, Duration::MAX, Duration::MAX);
        let (mut requests, mut bytes, mut of_peer) = (0, 0, (0, 0));
        for measurement in 0..MEASUREMENTS {
            let repository = format!("ours-{}-{measurement}", address.port());
            let input = sandbox.project("") + &sandbox.artifact("a", "a", &repository);
            let _ = sent.take();
            let began = Instant::now();
            sandbox.expect(0, "apply -q", &input)?;
            ours = ours.min(began.elapsed());
            (requests, bytes) = sent.take();
            let image = format!("{address}/test/peer-{}-{measurement}:v1", address.port());
            let (with_one, with_two) = crane_and_cosign(&image, folder)?;
            (one, two) = (one.min(with_one), two.min(with_two));
            of_peer = sent.take();
        }
        let ratio = |peer: Duration| ours.as_secs_f64() / peer.as_secs_f64();
        #[expect(
            clippy::print_stderr,
            reason = "the figures are the result of `tasks/bench publish`"
        )]
        {
            eprintln!(
                "first publication, {name}: {} ms, {requests} requests, {bytes} bytes sent",
                ours.as_millis()
            );
            eprintln!(
                "  {:.2} of crane append, cosign sign and cosign attest: {} ms",
                ratio(one),
                one.as_millis()
            );
            eprintln!(
                "  {:.2} of the same with a second cosign attest: {} ms, {} requests, {} bytes sent",
                ratio(two),
                two.as_millis(),
                of_peer.0,
                of_peer.1
            );
        }
        ratios.push(ratio(one));
    }
    assert!(ratios[1] <= RATIO_MAX, "{:.2} of crane and cosign at 50 ms", ratios[1]);
    assert!(ratios[0] <= RATIO_MAX, "{:.2} of crane and cosign on this machine", ratios[0]);
    Ok(())
}
