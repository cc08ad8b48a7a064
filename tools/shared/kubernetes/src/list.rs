//! Lists, page by page.

use serde_json::Value;

use crate::Error;
use crate::client::{Client, is_object_of_an_api};
use crate::request::Request;

/// Objects on one page, as in `kubectl` (flag `--chunk-size`,
/// <https://kubernetes.io/docs/reference/kubectl/generated/kubectl_get/>).
const PAGE: usize = 500;
/// Most pages of one list, so that a faulty `continue` token cannot loop for ever.
const PAGES_MAX: usize = 200;
/// Most times that one list begins again. Each page of 500 objects takes less than a second, and a
/// token is valid for five minutes, so that a second expiry is rare.
const RESTARTS_MAX: usize = 3;

/// Reads all items of a list. A list that the API server does not serve has no items, if
/// `request` permits that.
///
/// The API server answers 410 when the snapshot behind a token has expired. The list then begins
/// again, because the rest would come from another snapshot
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks>).
pub(crate) fn all(client: &Client, request: &Request) -> Result<Vec<Value>, Error> {
    let mut restarts = 0;
    loop {
        match pages(client, request) {
            Err(Error::Gone { .. }) if restarts < RESTARTS_MAX => restarts += 1,
            end => return end,
        }
    }
}

fn pages(client: &Client, request: &Request) -> Result<Vec<Value>, Error> {
    let first = request.exchange.with(&format!("limit={PAGE}"));
    let invalid = |why: &str| {
        let why = why.to_owned();
        Error::InvalidResponse { request: request.exchange.name.clone(), why }
    };
    let (mut objects, mut page) = (Vec::new(), first.clone());
    for _ in 0..PAGES_MAX {
        let page_request = Request { exchange: page, ..request.clone() };
        let Some(mut answer) = client.get(&page_request)? else { return Ok(objects) };
        match answer.get_mut("items").map(Value::take).unwrap_or_default() {
            Value::Array(items) => objects.extend(items.into_iter().filter(is_object_of_an_api)),
            // Measured, 1.36.3: a list of metadata without items holds null in their place.
            Value::Null if answer["metadata"].is_object() => {}
            _ => return Err(invalid("it is no list")),
        }
        match answer["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => page = first.with(&format!("continue={token}")),
            _ => return Ok(objects),
        }
    }
    Err(invalid(&format!("it has more than {} objects", PAGE * PAGES_MAX)))
}
