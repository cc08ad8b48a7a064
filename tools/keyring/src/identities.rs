//! Who we are to age: the identities that SOPS itself would use.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;

use age::x25519::Identity;

use crate::{Error, Secret, reference};

/// Largest file of identities, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// age identities, with which something may be opened.
#[derive(Clone)]
pub struct Identities {
    found: Vec<Identity>,
    /// Where they come from, for people.
    places: String,
}

impl Identities {
    /// Those in `SOPS_AGE_KEY`, in the file that `SOPS_AGE_KEY_FILE` names, and in
    /// `~/.config/sops/age/keys.txt`, as far as these are there: the places where SOPS looks.
    ///
    /// # Errors
    ///
    /// One of them cannot be read, or holds something else.
    pub fn from_environment() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var_os(name).filter(|it| !it.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let mut found = Vec::new();
        let mut places = Vec::new();
        if let Some(text) = variable("SOPS_AGE_KEY") {
            let place = "SOPS_AGE_KEY";
            found.append(&mut parse(&Secret::new(text.into_encoded_bytes()), place)?);
            places.push(place.to_owned());
        }
        if let Some(file) = variable("SOPS_AGE_KEY_FILE").map(PathBuf::from) {
            let place = format!("SOPS_AGE_KEY_FILE ({})", file.display());
            found.append(&mut parse(&reference::read(&file, FILE_BYTES_MAX)?, &place)?);
            places.push(place);
        }
        let home = || variable("HOME").map(|home| PathBuf::from(home).join(".config"));
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        let file = config.map(|it| it.join("sops/age/keys.txt"));
        if let Some(file) = file.filter(|it| it.exists()) {
            let place = file.display().to_string();
            found.append(&mut parse(&reference::read(&file, FILE_BYTES_MAX)?, &place)?);
            places.push(place);
        }
        Ok(Self { found, places: places.join(", ") })
    }

    /// The identity that `text` holds, one per line; `#` begins a comment.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnIdentity`].
    pub fn parse(text: &Secret) -> Result<Self, Error> {
        let place = "the given identities";
        Ok(Self { found: parse(text, place)?, places: place.to_owned() })
    }

    /// Where they were found; `None` when none were.
    pub(crate) fn places(&self) -> Option<&str> {
        (!self.found.is_empty()).then_some(&self.places)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.found.iter().map(|it| it as &dyn age::Identity)
    }
}

impl From<Identity> for Identities {
    fn from(identity: Identity) -> Self {
        Self { found: vec![identity], places: "a derived identity".to_owned() }
    }
}

fn parse(text: &Secret, place: &str) -> Result<Vec<Identity>, Error> {
    let wrong = |line| Error::NotAnIdentity { place: place.to_owned(), line };
    let text = std::str::from_utf8(text.expose()).map_err(|_| wrong(1))?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    keys.map(|(number, line)| Identity::from_str(line).map_err(|_| wrong(number))).collect()
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.places)
    }
}
