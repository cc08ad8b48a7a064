//! Images: two stock systems, two Talos snapshots, and what is made of servers.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::catalogue::ServerType;
use crate::error::Refusal;
use crate::labels::{self, Labels};
use crate::list as lists;
use crate::routes::nowhere;
use crate::store::{Head, State, resource};

/// When the ready-made images were made.
const MADE: &str = "2025-10-01T00:00:00Z";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `head.name` is the description, which need not be unique.
    pub(crate) head: Head,
    pub(crate) name: Option<String>,
    sort: String,
    architecture: String,
    flavor: String,
    version: Option<String>,
    disk: u32,
    available: bool,
    created_from: Option<(u64, String)>,
    bound_to: Option<u64>,
    protected: bool,
}

resource!(Image, "image");

/// What every project finds: Debian, and a snapshot of Talos for each architecture.
pub(crate) fn ready_made() -> Vec<Image> {
    let image =
        |id: u64, architecture: &str, name: Option<&str>, description: String, labels: Labels| {
            Image {
                head: Head { id, name: description, labels, created: MADE.to_owned() },
                name: name.map(str::to_owned),
                sort: if name.is_some() { "system" } else { "snapshot" }.to_owned(),
                architecture: architecture.to_owned(),
                flavor: if name.is_some() { "debian" } else { "unknown" }.to_owned(),
                version: name.map(|_| "13".to_owned()),
                disk: 10,
                available: true,
                created_from: None,
                bound_to: None,
                protected: false,
            }
        };
    let talos = || {
        Labels::from([
            ("os".to_owned(), "talos".to_owned()),
            ("version".to_owned(), "v1.13.9".to_owned()),
        ])
    };
    ["x86", "arm"]
        .into_iter()
        .zip(1_u64..)
        .flat_map(|(architecture, id)| {
            [
                image(id, architecture, Some("debian-13"), "Debian 13".to_owned(), Labels::new()),
                image(
                    100 + id,
                    architecture,
                    None,
                    format!("Talos v1.13.9 {architecture}"),
                    talos(),
                ),
            ]
        })
        .collect()
}

/// An image by id or, for stock systems, by name, if it runs on this type.
pub(crate) fn find(state: &State, wanted: &str, on: ServerType) -> Result<u64, Refusal> {
    let named: Vec<_> = state
        .images
        .iter()
        .filter(|it| it.head.id.to_string() == wanted || it.name.as_deref() == Some(wanted))
        .collect();
    if named.is_empty() {
        return Err(Refusal::new(404, "not_found", "image not found"));
    }
    let fitting = named.into_iter().find(|it| it.architecture == on.architecture);
    let image = fitting.ok_or_else(|| {
        Refusal::unfit("the architecture of the image is not that of the server type")
    })?;
    if !image.available {
        return Err(Refusal::unfit("image is not available"));
    }
    if image.disk > on.disk {
        return Err(Refusal::unfit("image disk is bigger than server type disk"));
    }
    Ok(image.head.id)
}

pub(crate) fn finish(state: &mut State, id: u64) {
    if let Some(image) = state.images.seen_mut(id) {
        image.available = true;
    }
}

impl Image {
    /// The image of a server's disk, not yet available.
    pub(crate) fn of_server(
        head: Head,
        sort: &str,
        server: &Head,
        server_type: ServerType,
    ) -> Self {
        Self {
            head,
            name: None,
            sort: sort.to_owned(),
            architecture: server_type.architecture.to_owned(),
            flavor: "unknown".to_owned(),
            version: None,
            disk: server_type.disk,
            available: false,
            created_from: Some((server.id, server.name.clone())),
            bound_to: (sort == "backup").then_some(server.id),
            protected: false,
        }
    }

    pub(crate) fn shown(&self) -> Value {
        json!({
            "id": self.head.id, "name": self.name, "description": self.head.name, "labels": self.head.labels, "created": self.head.created,
            "type": self.sort, "status": if self.available { "available" } else { "creating" },
            "architecture": self.architecture, "os_flavor": self.flavor, "os_version": self.version,
            "disk_size": f64::from(self.disk), "image_size": (self.sort != "system" && self.available).then_some(0.4),
            "rapid_deploy": self.sort == "system", "bound_to": self.bound_to,
            "created_from": self.created_from.as_ref().map(|(id, name)| json!({"id": id, "name": name})),
            "deleted": null, "deprecated": null, "protection": {"delete": self.protected},
        })
    }
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.images.iter().map(Image::shown).collect();
    lists::page(
        call,
        "images",
        items,
        &["name", "type", "status", "architecture", "bound_to"],
        &["id", "name", "created"],
    )
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        description: Option<String>,
        labels: Option<Labels>,
        #[serde(rename = "type")]
        sort: Option<String>,
    }
    let input: Input = call.input()?;
    labels::check(input.labels.as_ref().unwrap_or(&Labels::new()))?;
    if input.sort.as_ref().is_some_and(|it| it != "snapshot") {
        return Err(Refusal::invalid(&[("type", "must be snapshot")]));
    }
    let image = own(state, id)?;
    image.head.name = input.description.unwrap_or_else(|| image.head.name.clone());
    image.head.labels = input.labels.unwrap_or_else(|| image.head.labels.clone());
    if let Some(sort) = input.sort {
        (image.sort, image.bound_to) = (sort, None);
    }
    Ok(Answer::ok(json!({"image": image.shown()})))
}

/// The vendor's images are not the customer's to change.
fn own(state: &mut State, id: u64) -> Result<&mut Image, Refusal> {
    let image = state.images.get_mut(id)?;
    if image.sort == "system" {
        Err(Refusal::new(403, "forbidden", "system images cannot be changed"))
    } else {
        Ok(image)
    }
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    state.unlocked("image", id)?;
    if own(state, id)?.protected {
        return Err(Refusal::protected("image", "deletion"));
    }
    state.images.remove(id);
    Ok(Answer::gone())
}

pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        delete: Option<bool>,
    }
    if command != "change_protection" {
        return Err(nowhere(&["images", "actions", command]));
    }
    let input: Input = call.input()?;
    let image = own(state, id)?;
    image.protected = input.delete.unwrap_or(image.protected);
    Ok(begun(&state.begin("change_protection", &[("image", id)], Effect::Nothing)))
}
