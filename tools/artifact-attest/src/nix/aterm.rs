//! The `ATerm` notation of `.drv` files (<https://nix.dev/manual/nix/latest/protocols/derivation-aterm>).

/// Deepest nesting of a `.drv` file. Nix writes four levels.
const DEPTH_MAX: usize = 8;

/// A value of the `ATerm` notation.
pub(super) enum Term {
    Text(String),
    /// A list or a tuple.
    Many(Vec<Term>),
}

impl Term {
    pub(super) fn text(self) -> Option<String> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn many(self) -> Option<Vec<Self>> {
        if let Self::Many(many) = self { Some(many) } else { None }
    }

    pub(super) fn texts<const N: usize>(self) -> Option<[String; N]> {
        let texts = self.many()?.into_iter().map(Self::text).collect::<Option<Vec<_>>>()?;
        texts.try_into().ok()
    }
}

/// Reads one term from the beginning of `rest`.
pub(super) fn term(rest: &mut &str, depth: usize) -> Option<Term> {
    let open = rest.chars().next()?;
    *rest = &rest[open.len_utf8()..];
    let close = match open {
        '"' => return text(rest).map(Term::Text),
        '[' => ']',
        '(' => ')',
        _ => return None,
    };
    let mut many = Vec::new();
    if depth > DEPTH_MAX {
        return None;
    }
    loop {
        if let Some(after) = rest.strip_prefix(close) {
            *rest = after;
            return Some(Term::Many(many));
        }
        if !many.is_empty() {
            *rest = rest.strip_prefix(',')?;
        }
        many.push(term(rest, depth + 1)?);
    }
}

/// Reads a text up to its closing quote.
fn text(rest: &mut &str) -> Option<String> {
    let mut text = String::new();
    let mut letters = rest.char_indices();
    loop {
        match letters.next()? {
            (at, '"') => {
                *rest = &rest[at + 1..];
                return Some(text);
            }
            (_, '\\') => text.push(match letters.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                letter => letter,
            }),
            (_, letter) => text.push(letter),
        }
    }
}
