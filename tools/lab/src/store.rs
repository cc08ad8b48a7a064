//! Runs the object store: versitygw, with its data in the lab's folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::Error;
use crate::files;
use crate::paths::LabPaths;

/// Region that clients use when they sign requests.
pub(crate) const REGION: &str = "us-east-1";

const ACCESS: &str = "accessKeyId";
const SECRET: &str = "secretAccessKey";
/// Extended attribute of a bucket's folder in which versitygw keeps the bucket's policy.
const POLICY: &str = "user.policy";

/// An account of the store and its permissions in every bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// Every permission; only the lab uses this account.
    Root,
    /// Permission to add, read and list objects.
    Writer,
    /// Permission to read and list objects.
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

    /// Returns the file of the credentials, in the form that documents refer to.
    pub(crate) fn credentials(self, paths: &LabPaths) -> PathBuf {
        paths.secret(&format!("store-{}", self.name()))
    }
}

fn folder(paths: &LabPaths) -> PathBuf {
    paths.directory.join("store")
}

/// Returns the log with one line for each request that the store has answered.
pub(crate) fn access_log(paths: &LabPaths) -> PathBuf {
    paths.log("store-access")
}

/// Creates the store's folders, accounts and buckets. A bucket is a folder.
pub(crate) fn prepare(paths: &LabPaths, buckets: &[&str]) -> Result<(), Error> {
    let mut users = json!({});
    for account in [Account::Root, Account::Writer, Account::Reader] {
        let name = account.name();
        files::secret(&account.credentials(paths), 32, |bytes| {
            json!({ACCESS: name, SECRET: files::hex(bytes)}).to_string()
        })?;
        if !matches!(account, Account::Root) {
            let secret = &credentials(paths, account)?[SECRET];
            users[name] = json!({"access": name, "secret": secret, "role": "user"});
        }
    }
    let accounts = folder(paths).join("accounts");
    files::folder(&folder(paths).join("versions"))?;
    files::folder(&accounts)?;
    let users = json!({"accessAccounts": users}).to_string();
    files::settle(&accounts.join("users.json"), users.as_bytes(), 0o600)?;
    for bucket in buckets {
        let path = folder(paths).join("buckets").join(bucket);
        files::folder(&path)?;
        let policy = policy(bucket).to_string();
        rustix::fs::setxattr(&path, POLICY, policy.as_bytes(), rustix::fs::XattrFlags::empty())
            .map_err(|error| files::cannot("set attributes of", &path)(error.into()))?;
    }
    Ok(())
}

/// Returns the policy of `bucket` in S3's format
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html>).
fn policy(bucket: &str) -> Value {
    let statements = [Account::Writer, Account::Reader].map(|account| {
        json!({
            "Effect": "Allow", "Principal": {"AWS": [account.name()]}, "Action": account.actions(),
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
        })
    });
    json!({"Version": "2012-10-17", "Statement": statements})
}

fn credentials(paths: &LabPaths, account: Account) -> Result<BTreeMap<String, String>, Error> {
    let path = account.credentials(paths);
    let text = files::read(&path)?.unwrap_or_default();
    serde_json::from_slice(&text).map_err(|source| Error::InvalidState { path, source })
}

/// Returns the command that runs versitygw.
pub(crate) fn command(paths: &LabPaths) -> Result<Command, Error> {
    let credentials = credentials(paths, Account::Root)?;
    let part = |name| credentials.get(name).map(String::as_str).unwrap_or_default();
    let mut command = Command::new(paths.program("versitygw"));
    // Credentials go through the environment, because every user may list a process's arguments.
    command.env_clear().env("ROOT_ACCESS_KEY", part(ACCESS)).env("ROOT_SECRET_KEY", part(SECRET));
    command
        .args(["--port", &paths.store().to_string(), "--region", REGION])
        .arg("--iam-dir")
        .arg(folder(paths).join("accounts"))
        .arg("--access-log")
        .arg(access_log(paths))
        .arg("posix")
        .arg("--versioning-dir");
    command.arg(folder(paths).join("versions")).arg(folder(paths).join("buckets"));
    Ok(command)
}
