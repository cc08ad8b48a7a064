//! Temporary server that writes an image onto its own disk.
//!
//! Every step leaves a trace that a later run reads, so that a run which ended anywhere is continued:
//! the server with its labels, the label that records the proof, and the snapshot.

use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use contract::labels::{BUILDER, WRITTEN};
use data_encoding::HEXLOWER;
use secrets::PhaseKey;
use serde_json::{Value, json};
use ureq::http::Method;

use super::receipt::{self, Report};
use super::{identity, labels, model, parse_items, url};
use crate::Error;
use crate::clients::hetzner::http::CallError;
use crate::clients::hetzner::writer::{Writer, actions, until};
use crate::labels::Labels;
use crate::plan::{BuilderOffer, DesiredImage, ImageIdentity, Need};

/// Program that the temporary server runs.
const PROGRAM: &str = include_str!("write.py");
/// Vendor's image from which the temporary server starts. It has cloud-init, which runs the user data,
/// and Python, in which cloud-init is written.
const STOCK_IMAGE: &str = "debian-13";
/// Longest time until the image is written. The factory may have to build the image first.
const WRITE_MAX: Duration = Duration::from_secs(30 * 60);
/// Longest time that a snapshot may take.
const SNAPSHOT_MAX: Duration = Duration::from_secs(15 * 60);
/// Longest time until a deleted server is gone.
const DELETE_MAX: Duration = Duration::from_secs(300);
/// Number of reports between two requests for the state of the server.
const REPORTS_PER_LOOK: u32 = 5;
/// Most characters of the digest in the label.
const DIGEST_CHARACTERS: usize = 32;

/// Image to write.
#[derive(Clone, Copy)]
pub(crate) struct ImageOrder<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) image: &'a DesiredImage,
    pub(crate) need: &'a Need,
    pub(crate) architecture: &'a str,
    /// Id of the cluster's firewall, which leaves only the port of the reports open.
    pub(crate) firewall: u64,
    pub(crate) key: &'a PhaseKey,
}

impl ImageOrder<'_> {
    fn identity(&self) -> ImageIdentity {
        self.image.identity(self.architecture)
    }

    /// Returns the name of the temporary server. No machine has this name, because the names of
    /// machines end in a number.
    fn server(&self) -> String {
        format!("{}-image-{}", self.cluster, self.architecture)
    }

    /// Returns the key with which the server of this number signs its reports.
    fn key(&self, number: &str) -> [u8; 32] {
        *self.key.bytes(self.cluster, &format!("image-builder-{number}"))
    }

    fn user_data(&self, number: &str) -> String {
        let order = json!({
            "key": HEXLOWER.encode(&self.key(number)),
            "port": talos_api::PORT,
            "factory": self.image.factory,
            "schematic": self.image.schematic.id(),
            "yaml": self.image.schematic.yaml(),
            "url": url(self.image, self.architecture),
        });
        PROGRAM.replacen("@ORDER@", &order.to_string(), 1)
    }
}

/// Temporary server as the cloud shows it.
struct Seen {
    id: u64,
    labels: Labels,
    status: String,
    address: Option<String>,
}

impl Seen {
    fn read(server: &Value) -> Result<Self, Error> {
        let id = server["id"].as_u64();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Self {
            id: id.ok_or_else(|| Error::Unexpected { what: "no server".to_owned() })?,
            labels: serde_json::from_value(server["labels"].clone()).unwrap_or_default(),
            status: text(&server["status"]).unwrap_or_default(),
            address: text(&server["public_net"]["ipv4"]["ip"]),
        })
    }

    fn is_written(&self) -> bool {
        self.labels.contains_key(WRITTEN)
    }
}

impl Writer<'_> {
    /// Creates the image, or continues what an earlier run has begun. Deletes the temporary server.
    pub(crate) fn create_image(&self, order: &ImageOrder<'_>) -> Result<(), Error> {
        if self.snapshot(order)?.is_none() {
            let mut server = self.builder(order)?;
            if !server.is_written() {
                let digest = self.wait_written(order, &server)?;
                server.labels.insert(WRITTEN.to_owned(), digest);
                self.set_labels("servers", server.id, &server.labels)?;
            }
            if server.status != "off" {
                self.power_off(server.id)?;
            }
            self.request_snapshot(order, server.id)?;
        }
        until(SNAPSHOT_MAX, || {
            Ok(match self.snapshot(order)? {
                Some((_, status)) if status == "available" => Break(()),
                Some((id, status)) => Continue(format!("image {id} is {status}")),
                None => return Err(lost(order, "the snapshot has disappeared")),
            })
        })?;
        match self.find_builder(order)? {
            Some(server) => self.delete_builder(server.id),
            None => Ok(()),
        }
    }

    /// Deletes an image.
    pub(crate) fn remove_image(&self, id: u64) -> Result<(), Error> {
        let path = format!("/images/{id}");
        match self.0.http.change(&Method::DELETE, &path, None) {
            Err(CallError::Api(error)) if error.code == "not_found" => Ok(()),
            end => end.map(drop).map_err(Into::into),
        }
    }

    /// Returns id and status of the newest snapshot that is the ordered image.
    fn snapshot(&self, order: &ImageOrder<'_>) -> Result<Option<(u64, String)>, Error> {
        let identity = order.identity();
        let items = self.0.list("images", Some(("label_selector", &self.0.scope.selector())))?;
        let images: Vec<model::Image> = parse_items(items)?;
        let is_ordered = |image: &&model::Image| {
            super::identity(&image.labels) == identity
                && image.architecture == order.architecture
                && super::gigabytes(image.disk_size) <= order.need.disk_max
        };
        let newest = images.iter().filter(is_ordered).max_by_key(|image| image.id);
        Ok(newest.map(|image| (image.id, image.status.clone())))
    }

    fn find_builder(&self, order: &ImageOrder<'_>) -> Result<Option<Seen>, Error> {
        let name = order.server();
        let servers = self.0.list("servers", Some(("name", &name)))?;
        let Some(server) = servers.first() else { return Ok(None) };
        let seen = Seen::read(server)?;
        if !self.0.scope.owns(&seen.labels) || !seen.labels.contains_key(BUILDER) {
            return Err(Error::Taken { what: format!("the server {name}") });
        }
        Ok(Some(seen))
    }

    /// Returns the temporary server. A server of an earlier run is used unless it writes another image
    /// or was powered off before it had proved the image.
    fn builder(&self, order: &ImageOrder<'_>) -> Result<Seen, Error> {
        if let Some(server) = self.find_builder(order)? {
            let is_off = matches!(server.status.as_str(), "off" | "stopping" | "deleting");
            let is_useful = server.is_written() || !is_off;
            if identity(&server.labels) == order.identity() && is_useful {
                return Ok(server);
            }
            self.delete_builder(server.id)?;
        }
        let number = number().map_err(|error| lost(order, &format!("/dev/urandom: {error}")))?;
        let mut labels: Labels = self.0.scope.labels();
        labels.extend(super::labels(&order.identity()));
        labels.insert(BUILDER.to_owned(), number.clone());
        let body = json!({
            "name": order.server(),
            "labels": labels,
            "image": STOCK_IMAGE,
            "firewalls": [{"firewall": order.firewall}],
            "public_net": {"enable_ipv4": true, "enable_ipv6": false},
            "start_after_create": true,
            "user_data": order.user_data(&number),
        });
        let running = self.create_builder(order, body)?;
        self.wait(&running)?;
        self.find_builder(order)?.ok_or_else(|| lost(order, "the server has disappeared"))
    }

    /// Requests the server in the first location that has one of the types. Returns the running actions.
    fn create_builder(&self, order: &ImageOrder<'_>, mut body: Value) -> Result<Vec<u64>, Error> {
        let name = order.server();
        let mut refused = String::new();
        let places = |offer: &BuilderOffer| {
            let (locations, r#type) = (offer.locations.clone(), offer.r#type.clone());
            locations.into_iter().map(move |location| (r#type.clone(), location))
        };
        for (r#type, location) in order.need.offers.iter().flat_map(places) {
            body["server_type"] = json!(r#type);
            body["location"] = json!(location);
            match self.create_once("servers", &name, &body) {
                Err(Error::Api(why)) if why.is_of_location() => {
                    documents::note(
                        &name,
                        format_args!("{type} unavailable in {location}: {}", why.message),
                    );
                    refused = why.message;
                }
                end => return end.map(|(_, actions)| actions),
            }
        }
        let types = order.need.offers.iter().map(|offer| offer.r#type.clone());
        let types = types.collect::<Vec<_>>().join(" or ");
        let locations = "every location".to_owned();
        Err(Error::Unavailable { name, r#type: types, locations, why: refused })
    }

    /// Waits for the proof that the image is on the disk. Returns the digest for the label. A server
    /// that fails is deleted, so that the next run starts another one.
    fn wait_written(&self, order: &ImageOrder<'_>, server: &Seen) -> Result<String, Error> {
        let number = server.labels.get(BUILDER).cloned().unwrap_or_default();
        let key = order.key(&number);
        let address = server.address.as_ref().map(|ip| format!("{ip}:{}", talos_api::PORT));
        let address = address.ok_or_else(|| lost(order, "it has no public address"))?;
        let (mut asked, mut told) = (0, String::new());
        let written = until(WRITE_MAX, || {
            asked += 1;
            let why = match receipt::ask(&address, &key)? {
                Ok(Report::Written { sha256 }) => return Ok(Break(Ok(sha256))),
                Ok(Report::Failed { detail }) => return Ok(Break(Err(detail))),
                Ok(Report::Working { detail }) => {
                    if detail != told {
                        documents::note(order.server(), &detail);
                        told.clone_from(&detail);
                    }
                    detail
                }
                Err(why) => format!("{address}: {why}"),
            };
            documents::detail(order.server(), &why);
            if asked % REPORTS_PER_LOOK == 0 {
                let runs = self.find_builder(order)?.is_some_and(|seen| seen.status != "off");
                if !runs {
                    let why = "it was powered off or deleted before it had proved the image";
                    return Ok(Break(Err(why.to_owned())));
                }
            }
            Ok(Continue(format!("{}: {why}", order.server())))
        });
        let why = match written {
            Ok(Ok(sha256)) => return Ok(sha256.chars().take(DIGEST_CHARACTERS).collect()),
            Ok(Err(why)) => why,
            Err(Error::TimedOut { what }) => what,
            Err(error) => return Err(error),
        };
        self.delete_builder(server.id)?;
        Err(lost(order, &why))
    }

    /// Cuts the power. The program has stored everything, and the system of which its files were a part
    /// is gone, so that nothing could answer a request to shut down.
    fn power_off(&self, server: u64) -> Result<(), Error> {
        let path = format!("/servers/{server}/actions/poweroff");
        let answer = self.0.http.change(&Method::POST, &path, Some(&json!({})))?;
        self.wait(&actions(&answer))
    }

    /// Requests the snapshot. If the response is lost, the next look at the images shows whether the
    /// snapshot exists.
    fn request_snapshot(&self, order: &ImageOrder<'_>, server: u64) -> Result<(), Error> {
        let identity = order.identity();
        let mut all = self.0.scope.labels();
        all.extend(labels(&identity));
        let body = json!({
            "type": "snapshot",
            "description": format!(
                "Talos {} {} {}",
                identity.talos,
                order.architecture,
                order.image.schematic.id()
            ),
            "labels": all,
        });
        let path = format!("/servers/{server}/actions/create_image");
        let answer = match self.0.http.post(&path, &body) {
            Ok(answer) => answer,
            Err(CallError::Ambiguous(why)) if self.snapshot(order)?.is_none() => {
                return Err(Error::ResponseLost { why });
            }
            Err(CallError::Ambiguous(_)) => return Ok(()),
            Err(trouble) => return Err(trouble.into()),
        };
        self.wait(&actions(&answer))
    }

    fn delete_builder(&self, server: u64) -> Result<(), Error> {
        self.wait(&self.remove_server(server)?)?;
        until(DELETE_MAX, || {
            Ok(match self.0.has("servers", server)? {
                None => Break(()),
                Some(_) => Continue(format!("server {server} is still being deleted")),
            })
        })
    }
}

fn lost(order: &ImageOrder<'_>, why: &str) -> Error {
    Error::ImageNotWritten { name: order.server(), why: why.to_owned() }
}

/// Returns a number that no other temporary server has, so that a report of an earlier server does not
/// count for this one.
fn number() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}
