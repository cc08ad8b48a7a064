//! Images: finding, listing, changing and deleting them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::catalogue::ServerType;
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::{self, Labels};
use crate::list as lists;
use crate::machines::Contents;
use crate::model::Image;
use crate::resource::Resource;
use crate::state::State;

impl Image {
    pub(crate) fn to_json(&self) -> Value {
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

/// Returns the id of the image with this id, or for stock systems this name, if the image runs on the
/// server type.
pub(crate) fn find(state: &State, wanted: &str, on: ServerType) -> Result<u64, ApiError> {
    let named: Vec<_> = state
        .images
        .iter()
        .filter(|image| {
            image.head.id.to_string() == wanted || image.name.as_deref() == Some(wanted)
        })
        .collect();
    if named.is_empty() {
        return Err(ApiError::new(404, "not_found", "image not found"));
    }
    let fitting = named.into_iter().find(|image| image.architecture == on.architecture);
    let image = fitting.ok_or_else(|| {
        ApiError::invalid_input("the architecture of the image is not that of the server type")
    })?;
    if !image.available {
        return Err(ApiError::invalid_input("image is not available"));
    }
    if image.disk > on.disk {
        return Err(ApiError::invalid_input("image disk is bigger than server type disk"));
    }
    Ok(image.head.id)
}

/// Makes an image available after its action has ended.
pub(crate) fn finish(state: &mut State, id: u64) {
    if let Some(image) = state.images.find_mut(id) {
        image.available = true;
    }
}

/// Records what a snapshot contains: what the machine's disk holds at that time, or what its image holds
/// if the machine has no disk of its own.
pub(crate) fn set_contents(state: &mut State, id: u64, disk: Option<Contents>) {
    let source = state.images.find(id).and_then(|image| image.created_from.as_ref());
    let server = source.and_then(|(server, _)| state.servers.find(*server));
    let image = server.and_then(|server| state.images.find(server.image?));
    let contents = disk.or_else(|| image.map(|image| image.contents.clone()));
    if let Some(image) = state.images.find_mut(id) {
        image.contents = contents.unwrap_or_default();
    }
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.images.iter().map(Image::to_json).collect();
    lists::page(
        call,
        "images",
        items,
        &["name", "type", "status", "architecture", "bound_to"],
        &["id", "name", "created"],
    )
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        description: Option<String>,
        labels: Option<Labels>,
        #[serde(rename = "type")]
        sort: Option<String>,
    }
    let input: Input = call.input()?;
    labels::check(input.labels.as_ref().unwrap_or(&Labels::new()))?;
    if input.sort.as_ref().is_some_and(|sort| sort != "snapshot") {
        return Err(ApiError::invalid_fields(&[("type", "must be snapshot")]));
    }
    let image = get_changeable(state, id)?;
    image.head.name = input.description.unwrap_or_else(|| image.head.name.clone());
    image.head.labels = input.labels.unwrap_or_else(|| image.head.labels.clone());
    if let Some(sort) = input.sort {
        (image.sort, image.bound_to) = (sort, None);
    }
    Ok(Answer::ok(json!({"image": image.to_json()})))
}

/// Returns an image of the customer, and refuses the vendor's own images.
fn get_changeable(state: &mut State, id: u64) -> Result<&mut Image, ApiError> {
    let image = state.images.get_mut(id)?;
    if image.sort == "system" {
        Err(ApiError::new(403, "forbidden", "system images cannot be changed"))
    } else {
        Ok(image)
    }
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    state.require_unlocked(Image::KIND, id)?;
    if get_changeable(state, id)?.protected {
        return Err(ApiError::protected(Image::KIND, "deletion"));
    }
    state.images.remove(id);
    Ok(Answer::no_content())
}

pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        delete: Option<bool>,
    }
    if command.name != "change_protection" {
        return Err(command.unknown());
    }
    let input: Input = command.input()?;
    let image = get_changeable(state, command.id)?;
    image.protected = input.delete.unwrap_or(image.protected);
    Ok(command.done(state))
}
