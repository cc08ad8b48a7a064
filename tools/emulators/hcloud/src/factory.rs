//! An Image Factory for machines of the emulator: the routes of github.com/siderolabs/image-factory v0.8.4
//! (`internal/frontend/http`) that a client needs to get an image for Hetzner.
//!
//! An image is a file whose first block says what it is and how long it is. [`read`] recognises a complete
//! image on a disk, so that an incomplete one is never taken for Talos.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::machines::Contents;

/// Length of the block that describes an image, in bytes.
const HEAD_BYTES: usize = 4096;
/// Length of the rest of an image, in bytes: not a multiple of the block, as in a real image.
const BODY_BYTES: usize = 9 * 1024 * 1024 + 17;
/// Longest body of a request, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Official extensions that this factory has.
const EXTENSIONS: [&str; 3] =
    ["siderolabs/iscsi-tools", "siderolabs/qemu-guest-agent", "siderolabs/util-linux-tools"];

/// A factory that is served on a thread until the process ends.
pub struct Factory {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Registered schematics, by id.
    schematics: BTreeMap<String, String>,
    fault: Option<DownloadFault>,
    downloads: usize,
}

/// Way in which every further download is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadFault {
    /// The connection ends before the announced length.
    Cut,
    /// The file ends in the middle, and its length is announced as such.
    Truncated,
    /// One byte of the file is changed.
    Corrupt,
    /// The factory answers with status 500.
    Failing,
}

impl Factory {
    /// Starts a factory at a free port of `ip`, a loopback address.
    ///
    /// # Errors
    ///
    /// The address is taken, or no thread can be started.
    pub fn start(ip: &str) -> io::Result<Self> {
        Self::serve(TcpListener::bind((ip, 0))?)
    }

    /// Starts a factory at `listener`.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn serve(listener: TcpListener) -> io::Result<Self> {
        let (address, state) = (listener.local_addr()?, Arc::<Mutex<State>>::default());
        let shared = Arc::clone(&state);
        std::thread::Builder::new().spawn(move || {
            for connection in listener.incoming().flatten() {
                // A client that leaves early is its own problem.
                let _ = answer(&connection, address, &shared);
            }
        })?;
        Ok(Self { address, state })
    }

    /// Returns the URL of the factory.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks every further download, or repairs them.
    pub fn set_fault(&self, fault: Option<DownloadFault>) {
        lock(&self.state).fault = fault;
    }

    /// Returns the number of downloads that began.
    #[must_use]
    pub fn downloads(&self) -> usize {
        lock(&self.state).downloads
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request, and closes the connection.
fn answer(connection: &TcpStream, address: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((key, value)) = line.split_once(':') else { break };
        if key.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length.min(REQUEST_BYTES_MAX)];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, path.as_slice()) {
        ("POST", ["schematics"]) => register(connection, state, &body),
        ("GET", ["image", schematic, version, file]) => {
            redirect(connection, address, state, (schematic, version, file))
        }
        ("GET", ["storage", schematic, version, file]) => {
            download(connection, state, (schematic, version, file))
        }
        _ => send(connection, "404 Not Found", "", b"not found"),
    }
}

fn send(mut to: &TcpStream, status: &str, header: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    write!(
        to,
        "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    to.write_all(body)
}

/// Registers a schematic. The id is the digest of the canonical YAML. This factory does not bring other
/// YAML into that form, so other YAML gets an id that no client expects.
fn register(to: &TcpStream, state: &Mutex<State>, yaml: &[u8]) -> io::Result<()> {
    let id = HEXLOWER.encode(&Sha256::digest(yaml));
    let yaml = String::from_utf8_lossy(yaml).into_owned();
    lock(state).schematics.insert(id.clone(), yaml);
    send(to, "201 Created", "", json!({"id": id}).to_string().as_bytes())
}

/// Redirects to the storage, as the public factory does (`handleImage`).
fn redirect(
    to: &TcpStream,
    address: SocketAddr,
    state: &Mutex<State>,
    (schematic, version, file): (&str, &str, &str),
) -> io::Result<()> {
    let Some(yaml) = lock(state).schematics.get(schematic).cloned() else {
        return send(to, "404 Not Found", "", b"schematic not found");
    };
    let names = yaml.lines().filter_map(|line| line.trim().strip_prefix("- "));
    for name in names.filter(|name| name.contains('/')) {
        if !EXTENSIONS.contains(&name) {
            let text = format!(
                "official extension \"{name}\" is not available for Talos version {version}"
            );
            return send(to, "400 Bad Request", "", text.as_bytes());
        }
    }
    let location = format!("Location: http://{address}/storage/{schematic}/{version}/{file}\r\n");
    send(to, "302 Found", &location, b"")
}

fn download(
    mut to: &TcpStream,
    state: &Mutex<State>,
    (schematic, version, file): (&str, &str, &str),
) -> io::Result<()> {
    let name = file.strip_prefix("hcloud-").and_then(|rest| rest.strip_suffix(".raw.xz"));
    let Some(architecture) = name else {
        return send(to, "400 Bad Request", "", b"error parsing profile from path");
    };
    let fault = {
        let mut state = lock(state);
        state.downloads += 1;
        state.fault
    };
    let mut packed = compress(&image(schematic, version, architecture))?;
    let (length, half) = (packed.len(), packed.len() / 2);
    match fault {
        None => send(to, "200 OK", "", &packed),
        Some(DownloadFault::Failing) => send(to, "500 Internal Server Error", "", b"no storage"),
        Some(DownloadFault::Truncated) => send(to, "200 OK", "", &packed[..half]),
        Some(DownloadFault::Corrupt) => {
            packed[half] ^= 1;
            send(to, "200 OK", "", &packed)
        }
        Some(DownloadFault::Cut) => {
            write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
            to.write_all(&packed[..half])
        }
    }
}

fn image(schematic: &str, version: &str, architecture: &str) -> Vec<u8> {
    // Bytes that do not compress to nothing, and that differ between images.
    let mut body = Vec::with_capacity(BODY_BYTES);
    let mut block = Sha256::digest(format!("{schematic} {version} {architecture}"));
    while body.len() < BODY_BYTES {
        block = Sha256::digest(block);
        body.extend_from_slice(&block);
        body.extend_from_slice(&[0; 4096]);
    }
    body.truncate(BODY_BYTES);
    let head = json!({
        "version": version, "schematic": schematic, "architecture": architecture, "platform": "hcloud",
        "sha256": HEXLOWER.encode(&Sha256::digest(&body)),
    });
    let mut image = head.to_string().into_bytes();
    image.resize(HEAD_BYTES, b'\n');
    image.extend(body);
    image
}

/// Compresses with the program `xz`, with the check that Talos's images have.
fn compress(image: &[u8]) -> io::Result<Vec<u8>> {
    let mut xz = Command::new("xz");
    let mut xz = xz.args(["-0", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = xz.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let image = image.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&image));
    let packed = xz.wait_with_output()?.stdout;
    writer.join().map_err(|_| io::ErrorKind::Other)??;
    Ok(packed)
}

/// Returns what the disk holds. Only a complete image of Talos for this platform is Talos.
pub(crate) fn read(disk: &Path) -> io::Result<Contents> {
    let mut bytes = vec![0; HEAD_BYTES + BODY_BYTES];
    let mut file = File::open(disk)?;
    if file.read_exact(&mut bytes).is_err() {
        return Ok(Contents::Unknown);
    }
    let (head, body) = bytes.split_at(HEAD_BYTES);
    let head: Value = serde_json::from_slice(head).unwrap_or_default();
    let text = |key: &str| head[key].as_str().unwrap_or_default().to_owned();
    let is_complete = text("sha256") == HEXLOWER.encode(&Sha256::digest(body));
    Ok(if is_complete && text("platform") == "hcloud" {
        Contents::Talos {
            version: text("version"),
            schematic: text("schematic"),
            architecture: text("architecture"),
        }
    } else {
        Contents::Unknown
    })
}
