//! The object store: versitygw, on a folder of the lab's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::Error;
use crate::files;
use crate::place::Place;

/// For which requests are signed.
pub(crate) const REGION: &str = "us-east-1";

const ACCESS: &str = "accessKeyId";
const SECRET: &str = "secretAccessKey";
/// Where versitygw keeps what was said about a bucket: an attribute of its folder.
const POLICY: &str = "user.policy";

/// Somebody with credentials, and what they may do in every bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// Everything: the lab alone has it.
    Root,
    /// Adds, and looks at what is there.
    Writer,
    /// Reads.
    Reader,
}

impl Account {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Writer => "writer",
            Self::Reader => "reader",
        }
    }

    fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Root => &[],
            Self::Writer => &["s3:PutObject", "s3:GetObject", "s3:ListBucket"],
            Self::Reader => &["s3:GetObject", "s3:ListBucket"],
        }
    }

    /// The file that holds the credentials, as documents want them.
    pub(crate) fn credentials(self, place: &Place) -> PathBuf {
        place.secret(&format!("store-{}", self.name()))
    }
}

fn folder(place: &Place) -> PathBuf {
    place.directory.join("store")
}

/// Where it writes down who asked for what.
pub(crate) fn access_log(place: &Place) -> PathBuf {
    place.log("store-access")
}

/// Sees to its folders, its accounts and its buckets, each a folder.
pub(crate) fn prepare(place: &Place, buckets: &[&str]) -> Result<(), Error> {
    let mut users = json!({});
    for account in [Account::Root, Account::Writer, Account::Reader] {
        let name = account.name();
        files::secret(&account.credentials(place), 32, |it| {
            json!({ACCESS: name, SECRET: files::hex(it)}).to_string()
        })?;
        if !matches!(account, Account::Root) {
            let secret = &credentials(place, account)?[SECRET];
            users[name] = json!({"access": name, "secret": secret, "role": "user"});
        }
    }
    let accounts = folder(place).join("accounts");
    files::folder(&folder(place).join("versions"))?;
    files::folder(&accounts)?;
    let users = json!({"accessAccounts": users}).to_string();
    files::settle(&accounts.join("users.json"), users.as_bytes(), 0o600)?;
    for bucket in buckets {
        let path = folder(place).join("buckets").join(bucket);
        files::folder(&path)?;
        let policy = policy(bucket).to_string();
        rustix::fs::setxattr(&path, POLICY, policy.as_bytes(), rustix::fs::XattrFlags::empty())
            .map_err(|error| files::cannot("set attributes of", &path)(error.into()))?;
    }
    Ok(())
}

/// Who may do what in `bucket`, as S3 says it.
fn policy(bucket: &str) -> Value {
    let statements = [Account::Writer, Account::Reader].map(|it| {
        json!({
            "Effect": "Allow", "Principal": {"AWS": [it.name()]}, "Action": it.actions(),
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
        })
    });
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn credentials(place: &Place, account: Account) -> Result<BTreeMap<String, String>, Error> {
    let path = account.credentials(place);
    let text = files::read(&path)?.unwrap_or_default();
    serde_json::from_slice(&text).map_err(|source| Error::Garbled { path, source })
}

/// The command that runs it.
pub(crate) fn command(place: &Place) -> Result<Command, Error> {
    let credentials = credentials(place, Account::Root)?;
    let part = |name| credentials.get(name).map(String::as_str).unwrap_or_default();
    let mut command = Command::new(place.program("versitygw"));
    // It takes them from its environment, or from its arguments, which anybody may list.
    command.env_clear().env("ROOT_ACCESS_KEY", part(ACCESS)).env("ROOT_SECRET_KEY", part(SECRET));
    command
        .args(["--port", &place.store().to_string(), "--region", REGION])
        .arg("--iam-dir")
        .arg(folder(place).join("accounts"))
        .arg("--access-log")
        .arg(access_log(place))
        .arg("posix")
        .arg("--versioning-dir");
    command.arg(folder(place).join("versions")).arg(folder(place).join("buckets"));
    Ok(command)
}
