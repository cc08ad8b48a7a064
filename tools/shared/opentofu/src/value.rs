//! Resources and the values of their arguments.

/// Address of a resource, for example `hcloud_server.prod-work-1`. The name is the vendor's, and the
/// configuration makes a valid label of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Type of the resource, for example `hcloud_server`.
    pub kind: &'static str,
    /// Name of the resource, unique within its type, for example `prod-work-1`.
    pub name: String,
}

impl Address {
    /// Returns the address of a resource.
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// Returns an expression for the id of the resource, which `OpenTofu` knows after the import or the
    /// creation.
    #[must_use]
    pub fn id(&self) -> Value {
        Value::Reference(self.clone(), "id")
    }
}

/// Value of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text, which `OpenTofu` takes literally.
    Text(String),
    /// A whole number.
    Number(u64),
    /// A truth value.
    Flag(bool),
    /// A list or a set; or nested blocks of one type.
    List(Vec<Value>),
    /// A map; or one nested block.
    Map(Vec<(String, Value)>),
    /// An attribute of another resource of the configuration.
    Reference(Address, &'static str),
    /// A value that no plan can know or show. `OpenTofu` asks for it.
    Input(Input),
}

/// Input variable of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name of the variable, for example `talos_image_arm`.
    pub name: String,
    /// Meaning of the value, and the way to it.
    pub description: String,
    /// Value that `OpenTofu` takes without asking; `None` if it asks.
    pub default: Option<&'static str>,
    /// Whether `OpenTofu` hides the value in its output.
    pub is_secret: bool,
}

impl Value {
    /// Returns one nested block with these arguments.
    #[must_use]
    pub fn block(arguments: Arguments) -> Self {
        Self::Map(arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// Arguments of a resource, of a provider or of a nested block, in the order in which they are printed.
pub type Arguments = Vec<(&'static str, Value)>;

/// A resource of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Address of the resource.
    pub address: Address,
    /// Arguments with their values.
    pub arguments: Arguments,
    /// Id for the import, in the form that the provider documents; `None` while the resource does not
    /// exist.
    pub import: Option<String>,
    /// Arguments whose differences `OpenTofu` ignores.
    pub ignored: Vec<&'static str>,
    /// Whether `OpenTofu` rejects every plan that would destroy the resource.
    pub is_kept: bool,
    /// Resources that must exist first, although no argument refers to them.
    pub after: Vec<Address>,
    /// Sentence for the reader of the configuration; empty for none.
    pub note: String,
}

impl Resource {
    /// Returns a resource with these arguments. `import` is its id if it exists.
    #[must_use]
    pub fn new(address: Address, import: Option<String>, arguments: Arguments) -> Self {
        let (ignored, after) = (Vec::new(), Vec::new());
        Self { address, arguments, import, ignored, is_kept: false, after, note: String::new() }
    }
}
