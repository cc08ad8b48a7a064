//! age identities of the caller, found where SOPS looks for them.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;

use age::x25519::Identity;

use crate::read::read;
use crate::{Error, Secret};

/// Largest file of identities, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Beginnings of identities that need a plugin (for example a yubikey) or an algorithm that the crate
/// `age` lacks. A file may hold them beside supported identities, so they are skipped.
const UNSUPPORTED_KINDS: [&str; 2] = ["AGE-PLUGIN-", "AGE-SECRET-KEY-PQ-1"];

/// Identities that can decrypt age files.
#[derive(Clone)]
pub struct Identities {
    found: Vec<Identity>,
    /// Places where the identities were found, for messages.
    places: String,
}

impl Identities {
    /// Reads the identities in `SOPS_AGE_KEY`, in the file that `SOPS_AGE_KEY_FILE` names, and in
    /// `~/.config/sops/age/keys.txt`, as far as they exist: SOPS reads the same places
    /// (<https://getsops.io/docs/#encrypting-using-age>).
    ///
    /// # Errors
    ///
    /// A file cannot be read, or a line is not an identity.
    pub fn from_environment() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
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
            found.append(&mut parse(&read(&file, FILE_BYTES_MAX)?, &place)?);
            places.push(place);
        }
        let below_home =
            if cfg!(target_os = "macos") { "Library/Application Support" } else { ".config" };
        let home = || variable("HOME").map(|home| PathBuf::from(home).join(below_home));
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        let file = config.map(|folder| folder.join("sops/age/keys.txt"));
        if let Some(file) = file.filter(|file| file.exists()) {
            let place = file.display().to_string();
            found.append(&mut parse(&read(&file, FILE_BYTES_MAX)?, &place)?);
            places.push(place);
        }
        Ok(Self { found, places: places.join(", ") })
    }

    /// Parses identities, one per line; `#` begins a comment.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnIdentity`] with the number of the line.
    pub fn parse(text: &Secret) -> Result<Self, Error> {
        let place = "the given identities";
        Ok(Self { found: parse(text, place)?, places: place.to_owned() })
    }

    /// Adds `identity`, and `place` to the places that messages name.
    #[must_use]
    pub fn and(mut self, identity: Identity, place: &str) -> Self {
        let separator = if self.places.is_empty() { "" } else { " and " };
        self.places = format!("{}{separator}{place}", self.places);
        self.found.push(identity);
        self
    }

    /// Keeps the identities whose public half is one of `recipients`.
    pub(crate) fn among(&self, recipients: &[&str]) -> Self {
        let is_named =
            |identity: &&Identity| recipients.contains(&identity.to_public().to_string().as_str());
        let found = self.found.iter().filter(is_named).cloned().collect();
        Self { found, places: self.places.clone() }
    }

    /// Returns the public half of each identity.
    #[must_use]
    pub fn recipients(&self) -> Vec<String> {
        self.found.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    /// Returns the places where identities were found; `None` when there is no identity.
    pub(crate) fn places(&self) -> Option<&str> {
        (!self.found.is_empty()).then_some(&self.places)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.found.iter().map(|identity| identity as &dyn age::Identity)
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
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.starts_with('#'));
    let words =
        lines.flat_map(|(number, line)| line.split_whitespace().map(move |word| (number, word)));
    let is_supported =
        |word: &str| !UNSUPPORTED_KINDS.iter().any(|beginning| word.starts_with(beginning));
    let words = words.filter(|(_, word)| is_supported(word));
    words.map(|(number, word)| Identity::from_str(word).map_err(|_| wrong(number))).collect()
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AGE-SECRET-KEY-1C8E3LKDAJE5CGFKLL4SWMUC0JTR6KCTMUMVN8CP5YHAYK4NPVTZQDCPV9W";

    fn from(variables: &[(&str, &str)]) -> Result<Identities, Error> {
        Identities::from_variables(|wanted| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn identities_are_read_from_the_places_that_sops_reads() {
        fn found(variables: &[(&str, &str)]) -> usize {
            from(variables).expect("right").found.len()
        }
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("sops/age/keys.txt");
        std::fs::create_dir_all(keys.parent().expect("a parent")).expect("a folder");
        std::fs::write(&keys, format!("# mine\n\n{ONE}\n")).expect("written");
        let (folder, keys) = (folder.path().to_str().expect("text"), keys.to_str().expect("text"));
        assert_eq!(found(&[]), 0);
        assert_eq!(found(&[("SOPS_AGE_KEY", &format!("{ONE} {ONE}"))]), 2);
        assert_eq!(found(&[("SOPS_AGE_KEY_FILE", keys)]), 1);
        assert_eq!(found(&[("XDG_CONFIG_HOME", folder)]), 1);
        assert_eq!(found(&[("HOME", folder)]), 0);
        let all = [("SOPS_AGE_KEY", ONE), ("SOPS_AGE_KEY_FILE", keys), ("XDG_CONFIG_HOME", folder)];
        assert_eq!(found(&all), 3);
    }

    #[test]
    fn an_identity_that_needs_a_plugin_is_skipped() {
        let text = format!("AGE-PLUGIN-YUBIKEY-1QQQ\n{ONE}\nAGE-SECRET-KEY-PQ-1QQQ");
        assert_eq!(from(&[("SOPS_AGE_KEY", &text)]).expect("right").found.len(), 1);
    }

    #[test]
    fn an_error_about_identities_names_the_line_and_does_not_quote_it() {
        let error = from(&[("SOPS_AGE_KEY", &format!("{ONE}\nhunter2"))]).expect_err("wrong");
        assert_eq!(error.to_string(), "line 2 of SOPS_AGE_KEY is not an age identity");
        let error = from(&[("SOPS_AGE_KEY_FILE", "/nowhere/keys.txt")]).expect_err("wrong");
        assert_eq!(error.to_string(), "cannot read /nowhere/keys.txt");
    }
}
