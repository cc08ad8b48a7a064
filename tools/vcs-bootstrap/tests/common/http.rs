//! Parts of a forge's HTTP server: git's own server, and lists in pages.

use std::io;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::Value;
use testing::git;
use testing::http::{Request, Response};

/// Token that the forge of these tests accepts.
pub(crate) const TOKEN: &str = "github_pat_example";

/// Status, body and additional headers.
#[allow(dead_code, reason = "not every test that has this module needs all of it")]
pub(crate) type Answer = (u16, Value, Vec<(&'static str, String)>);

/// Serves git's own HTTP backend. Demands the token as GitHub does.
pub(crate) fn git(
    request: &Request,
    folder: &Path,
    tokens: &[String],
    refuses: Option<(&str, u16, String)>,
) -> io::Result<Vec<u8>> {
    let basic = |token: &String| {
        format!("Basic {}", BASE64.encode(format!("x-access-token:{token}").as_bytes()))
    };
    if !tokens.iter().any(|token| request.header("authorization") == basic(token)) {
        return whole(&Response::new(401, "").with("WWW-Authenticate", "Basic realm=\"GitHub\""));
    }
    if let Some((_, status, text)) =
        refuses.filter(|(service, ..)| request.target.contains(service))
    {
        if status == 200 {
            let response = Response::new(200, text);
            let kind = "application/x-git-receive-pack-result";
            return whole(&response.with("Content-Type", kind));
        }
        let location = if (300..400).contains(&status) { text.clone() } else { String::new() };
        let response = Response::new(status, text).with("Content-Type", "text/plain");
        return whole(&response.with("Location", location));
    }
    let (status, output) = git::serve(request, &request.path, folder)?;
    let head = format!("HTTP/1.1 {status} Mock\r\nConnection: close\r\n");
    Ok([head.as_bytes(), &output].concat())
}

/// Answers requests below `info/lfs` of a repository.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) type LfsServer = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// Answers a request to the LFS server of a forge, which has none by default.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn lfs(request: &Request, server: Option<LfsServer>) -> io::Result<Vec<u8>> {
    let missing = || Response::new(404, "{\"message\": \"Not Found\"}");
    whole(&server.map_or_else(missing, |server| server(request)))
}

/// Returns the bytes of a response that ends the connection.
pub(crate) fn whole(response: &Response) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    response.clone().with("Connection", "close").write("GET", &mut bytes)?;
    Ok(bytes)
}

/// Returns one page of a list, with a link to the next page.
#[allow(dead_code, reason = "not every test that has this module needs all of it")]
pub(crate) fn page(
    request: &Request,
    next: &str,
    all: &[Value],
    shape: impl Fn(&[Value]) -> Value,
) -> Answer {
    let query = |name: &str, otherwise: usize| {
        let found =
            request.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|number| number.parse().ok()).unwrap_or(otherwise)
    };
    let most = if request.path.ends_with("/variables") { 30 } else { 100 };
    let (size, page) = (query("per_page", 30).min(most), query("page", 1));
    let start = (size * (page - 1)).min(all.len());
    let end = (start + size).min(all.len());
    let more = end < all.len();
    let link = ("Link", format!("<{next}/x?page={}>; rel=\"next\"", page + 1));
    (200, shape(&all[start..end]), more.then_some(link).into_iter().collect())
}
