//! Another form of a run's result than documents.

use std::path::PathBuf;
use std::str::FromStr;

/// A text that a program makes of the result of a run, for example a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// The whole text.
    pub text: String,
    /// File for the text, which replaces an existing file; `None` for standard output. Documents are
    /// written only if standard output is free.
    pub file: Option<PathBuf>,
}

/// Forms of a result beside documents, which the option `--output` of one verb offers.
pub trait Form: Clone + 'static {
    /// Every form with its name on the command line, for example `svg`.
    const NAMES: &'static [(&'static str, Self)];
}

/// Form of a verb's result, and its place: the value of the option `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultForm<F> {
    /// The documents on standard output.
    Documents,
    /// Another form, in a file or else on standard output.
    Other(F, Option<PathBuf>),
}

impl<F: Form> FromStr for ResultForm<F> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, file) = match text.split_once('=') {
            Some((_, "")) => return Err("name a file after `=`".to_owned()),
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (text, None),
        };
        if name == "json" {
            return match file {
                None => Ok(Self::Documents),
                Some(_) => {
                    Err("documents are written to standard output: redirect it to a file"
                        .to_owned())
                }
            };
        }
        let form = F::NAMES.iter().find(|(known, _)| *known == name);
        let form = form.ok_or_else(unknown_form::<F>)?;
        Ok(Self::Other(form.1.clone(), file))
    }
}

/// Returns the error for a form that the verb does not have, with every accepted value.
fn unknown_form<F: Form>() -> String {
    let names = || F::NAMES.iter().map(|(name, _)| *name);
    let values = ["json".to_owned()].into_iter().chain(names().map(str::to_owned));
    let values = values.chain(names().map(|name| format!("{name}=FILE")));
    let mut values: Vec<_> = values.map(|value| format!("`{value}`")).collect();
    let last = values.pop().unwrap_or_default();
    format!("use {} or {last}", values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Svg;

    impl Form for Svg {
        const NAMES: &'static [(&'static str, Self)] = &[("svg", Svg)];
    }

    #[test]
    fn form_is_a_name_with_or_without_a_file() {
        let read = |text: &str| text.parse::<ResultForm<Svg>>();
        assert_eq!(read("json"), Ok(ResultForm::Documents));
        assert_eq!(read("svg"), Ok(ResultForm::Other(Svg, None)));
        let file = PathBuf::from("a=b.svg");
        assert_eq!(read("svg=a=b.svg"), Ok(ResultForm::Other(Svg, Some(file))));
        for (text, error) in [
            ("png", "use `json`, `svg` or `svg=FILE`"),
            ("", "use `json`, `svg` or `svg=FILE`"),
            ("svg=", "name a file after `=`"),
            ("json=a", "documents are written to standard output: redirect it to a file"),
        ] {
            assert_eq!(read(text), Err(error.to_owned()), "{text}");
        }
    }
}
