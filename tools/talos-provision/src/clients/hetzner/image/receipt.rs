//! Reports of a temporary server: what it does, and the proof that its disk holds the image.
//!
//! A report is one line with an HMAC-SHA256 in hex, and JSON. The key is in the user data of the
//! server, which only the server can read, so no other program can make a report. A server that is off
//! proves nothing: a person or a failure may have powered it off.

use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit as _, Mac as _};
use remote::{Settings, agent, read, run};
use serde::Deserialize;
use sha2::Sha256;
use ureq::http::Request;

use crate::Error;

/// Timeout of one request.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Largest report, in bytes.
const REPORT_BYTES_MAX: u64 = 16 * 1024;

/// Report of a temporary server.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum Report {
    /// The image is being downloaded or written.
    Working {
        /// Sentence for people.
        detail: String,
    },
    /// The disk was compared with the image.
    Written {
        /// SHA-256 digest of the image.
        sha256: String,
    },
    /// The image cannot be written.
    Failed {
        /// Cause, for people.
        detail: String,
    },
}

/// Asks the temporary server at `address`. Returns the reason if there is no authentic report.
pub(super) fn ask(address: &str, key: &[u8; 32]) -> Result<Result<Report, String>, Error> {
    let agent = agent(Settings {
        program: "talos-provision",
        is_plain: true,
        response_max: ATTEMPT_MAX,
        attempt_max: ATTEMPT_MAX,
    })?;
    let request = Request::builder().uri(format!("http://{address}/")).body(());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let answer = run(&agent, request, ATTEMPT_MAX).map_err(|error| error.to_string());
    let body = answer.and_then(|mut answer| {
        read(&mut answer, REPORT_BYTES_MAX).map_err(|error| error.to_string())
    });
    Ok(body.and_then(|body| parse(&body.unwrap_or_default(), key)))
}

/// Reads a report, and rejects one that another key signed.
fn parse(page: &[u8], key: &[u8; 32]) -> Result<Report, String> {
    let foreign = || "the answer does not come from the temporary server".to_owned();
    let end = page.iter().position(|byte| *byte == b'\n').ok_or_else(foreign)?;
    let (code, rest) = page.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let code = HEXLOWER_PERMISSIVE.decode(code).map_err(|_| foreign())?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| foreign())?;
    mac.update(body);
    mac.verify_slice(&code).map_err(|_| foreign())?;
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `hmac.new(bytes(range(32)), body, "sha256").hexdigest()` of Python 3.11.
    const CODE: &str = "51a4113ffa5bd58e1582c5894314e398cdb47dcdeab58a52263f3727dabad4cd";
    const BODY: &str = r#"{"state": "written", "detail": "x", "sha256": "ab", "bytes": 1}"#;

    fn key() -> [u8; 32] {
        std::array::from_fn(|index| u8::try_from(index).expect("less than 32"))
    }

    #[test]
    fn a_report_counts_only_with_the_code_of_the_key() {
        let page = |code: &str, body: &str| parse(format!("{code}\n{body}").as_bytes(), &key());
        assert_eq!(page(CODE, BODY), Ok(Report::Written { sha256: "ab".to_owned() }));
        for (code, body) in [
            (CODE, BODY.replace("ab", "ac")),
            ("", BODY.to_owned()),
            (&CODE[..62], BODY.to_owned()),
            (&CODE.replace('5', "6"), BODY.to_owned()),
        ] {
            assert!(page(code, &body).is_err(), "{code} {body}");
        }
        assert!(parse(BODY.as_bytes(), &key()).is_err());
        assert!(parse(b"", &key()).is_err());
        assert!(parse(format!("{CODE}\n{BODY}").as_bytes(), &[0; 32]).is_err());
    }
}
