//! Temporary: answers `/_lab/writes`, until the emulators are there.
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use crate::Error;
use crate::files;
use crate::http;
use crate::place::Place;

pub(crate) struct Fleet;
impl Fleet {
    pub(crate) fn shutdown(&self) {}
}
pub(crate) struct Running;
pub(crate) fn token(place: &Place) -> std::path::PathBuf {
    place.secret("cloud")
}
pub(crate) fn prepare(place: &Place) -> Result<(), Error> {
    files::secret(&token(place), 32, files::hex)?;
    Ok(())
}
pub(crate) fn fleet(_: &Place) -> Arc<Fleet> {
    Arc::new(Fleet)
}
impl Running {
    pub(crate) fn start(place: &Place) -> Result<Self, Error> {
        let listener = TcpListener::bind(place.cloud())
            .map_err(files::cannot("listen on", "cloud".as_ref()))?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\n{\"writes\":0}");
            }
        });
        Ok(Self)
    }
    #[expect(clippy::unused_self)]
    pub(crate) fn has_ended(&self) -> bool {
        false
    }
    #[expect(clippy::unused_self)]
    pub(crate) fn shutdown(self) {}
}
pub(crate) fn writes(place: &Place) -> Option<u64> {
    let answer = http::get(place.cloud(), "/_lab/writes", None).ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    answer["writes"].as_u64()
}
