//! Requests to a registry, and the pages of its lists.

use std::fs::File;

use ureq::http::{Method, Response};
use ureq::{Body as ResponseBody, ResponseExt as _};

use super::origin::resolved;
use super::repository::Repository;
use crate::body::header;

/// Body of a request.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// No body.
    None,
    /// Bytes of a media type.
    Bytes(&'a [u8], &'a str),
    /// Part of a file: the position and the number of the bytes, which are sent without being read into
    /// memory.
    File(&'a File, u64, u64),
}

/// Request to a registry.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method, for example `GET`.
    pub method: &'a Method,
    /// Absolute URL.
    pub url: &'a str,
    /// Value of `Accept`; empty to send none.
    pub accept: &'a str,
    /// Body.
    pub body: Body<'a>,
    /// Value of `Content-Range`: the positions of the first and the last byte of the body in a blob.
    pub range: Option<(u64, u64)>,
}

impl<'a> Request<'a> {
    /// Returns a request without a body.
    #[must_use]
    pub fn new(method: &'a Method, url: &'a str) -> Self {
        Self { method, url, accept: "", body: Body::None, range: None }
    }

    /// Returns a GET request for one of the media types of `accept`.
    #[must_use]
    pub fn get(url: &'a str, accept: &'a str) -> Self {
        Self { accept, ..Self::new(&Method::GET, url) }
    }

    /// Returns the request with a body.
    #[must_use]
    pub fn with(self, body: Body<'a>) -> Self {
        Self { body, ..self }
    }

    /// Returns the request for the bytes from the first to the last position of a blob.
    #[must_use]
    pub fn ranged(self, first: u64, last: u64) -> Self {
        Self { range: Some((first, last)), ..self }
    }
}

impl Repository {
    /// Returns the URL of the page after `response`, by its `Link` of the relation `next` (RFC 8288).
    ///
    /// A link to another origin keeps the path of `response`, because it is a mistake of a registry behind
    /// a proxy, and no registry may send this client, or its token, to another host.
    #[must_use]
    pub fn next_page(&self, response: &Response<ResponseBody>) -> Option<String> {
        let target = next_link(&header(response, "link")?)?;
        let here = response.get_uri().to_string();
        let to = resolved(&here, &target);
        let to = to.split('#').next().unwrap_or_default().to_owned();
        if self.is_registry(&to) {
            return Some(to);
        }
        let query = to.split_once('?').map(|(_, query)| query).filter(|query| !query.is_empty())?;
        let path = here.split(['?', '#']).next().unwrap_or_default();
        Some(format!("{path}?{query}"))
    }
}

/// Returns the target of the relation `next` in a `Link` header.
fn next_link(links: &str) -> Option<String> {
    let mut rest = links;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let parameters = after.split_once('<').map_or(after, |(parameters, _)| parameters);
        let parameters = parameters.to_ascii_lowercase().replace([' ', '"'], "");
        let mut relations =
            parameters.split([';', ',']).filter_map(|part| part.strip_prefix("rel="));
        let is_next = relations.next().is_none_or(|relation| relation == "next");
        // A URL has no space and no character outside of ASCII.
        if is_next && !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(target.to_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_the_relations_of_a_link() {
        for (links, expected) in [
            ("</v2/a/tags/list?n=1&last=x>; rel=\"next\"", Some("/v2/a/tags/list?n=1&last=x")),
            ("</first>; rel=\"first\", <?last=x,y>; rel=next", Some("?last=x,y")),
            ("</a>", Some("/a")),
            ("</a>; rel=prev", None),
            ("<>; rel=next", None),
            ("<?a b>; rel=next", None),
            ("</a", None),
            ("", None),
        ] {
            assert_eq!(next_link(links).as_deref(), expected, "{links}");
        }
    }
}
