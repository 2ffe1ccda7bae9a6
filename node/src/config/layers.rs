//! Settings in layers: defaults, then the network, the file, the environment, the command line; the last one counts.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    error::{ConfigError, ConfigErrors},
    keys::{self, KEYS, Key, OPEN_SECTION},
    networks::PRESETS,
    value::Value,
};

/// Longest configuration, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How variables begin that are settings; later ones come before earlier ones. The first is that of the network's node.
const PREFIXES: [&str; 2] = ["ZGS_NODE__", "ZGPU_NODE__"];

/// Where a value comes from. Greater ones come before smaller ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The key's default.
    Default,
    /// The network that was named.
    Network(&'static str),
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// An argument of the command line.
    Flag(String),
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::Network(_) => 1,
            Origin::File(_) => 2,
            Origin::Variable(_) => 3,
            Origin::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Network(name) => write!(f, "network {name}"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// What a configuration is made from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file.
    pub file: Option<PathBuf>,
    /// The environment: names and values, of which those with our prefixes count.
    pub environment: Vec<(String, String)>,
    /// What the command line sets: the argument's name, the key with its section, the value.
    pub flags: Vec<(String, String, String)>,
    /// Ignores keys that do not exist.
    pub allow_unknown: bool,
}

/// One key with its value.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) key: &'static Key,
    /// None when nothing is set.
    pub(super) value: Option<Value>,
    pub(super) origin: Origin,
}

/// Every key with its value and where that comes from.
#[derive(Clone)]
pub(super) struct Settings {
    /// In the order of [`KEYS`].
    pub(super) all: Vec<Setting>,
    /// Keys that were given and mean nothing, with why.
    pub(super) ignored: Vec<(Origin, String, String)>,
}

impl Settings {
    /// Puts the layers on each other. Reports everything that is wrong at once.
    pub(super) fn load(sources: &Sources) -> Result<Settings, ConfigErrors> {
        let mut building = Building { settings: Settings::defaults(), errors: Vec::new(), sources };
        let file = match &sources.file {
            Some(path) => Some((path, read_toml(path)?)),
            None => None,
        };
        let variables = building.variables();

        // The network is a layer below those that name it.
        if let Some((path, table)) = &file
            && let Some(value) = table.get("network")
        {
            building.put_toml("", "network", value, &Origin::File(PathBuf::clone(path)));
        }
        building.put_texts(&variables, |key| key == "network");
        building.put_flags(|key| key == "network");
        building.put_preset();

        if let Some((path, table)) = &file {
            building.put_table(table, &Origin::File(PathBuf::clone(path)));
        }
        building.put_texts(&variables, |_| true);
        building.put_flags(|_| true);
        let Building { settings, errors, .. } = building;
        if errors.is_empty() { Ok(settings) } else { Err(ConfigErrors(errors)) }
    }

    fn defaults() -> Settings {
        let default = |key: &'static Key| {
            let value = (!key.default.is_empty()).then(|| {
                let table: toml::Table =
                    toml::from_str(&format!("value = {}", key.default)).expect("defaults are TOML, as a test shows");
                key.kind.check(&table["value"]).expect("defaults fit, as a test shows")
            });
            Setting { key, value, origin: Origin::Default }
        };
        Settings { all: KEYS.iter().map(default).collect(), ignored: Vec::new() }
    }

    pub(super) fn setting(&self, section: &str, name: &str) -> &Setting {
        let found = self.all.iter().find(|setting| setting.key.section == section && setting.key.name == name);
        found.unwrap_or_else(|| panic!("{section}.{name} is no key of the table"))
    }

    /// The value, unless it is empty.
    fn value(&self, section: &str, name: &str) -> Option<&Value> {
        self.setting(section, name).value.as_ref().filter(|value| !value.is_empty())
    }

    /// True when the first of two keys of no section was set no later than the second.
    pub(super) fn is_below(&self, name: &str, other: &str) -> bool {
        self.setting("", name).origin.rank() < self.setting("", other).origin.rank()
    }
}

/// Reads typed values; the table of keys guarantees their types.
impl Settings {
    pub(super) fn int(&self, section: &str, name: &str) -> u64 {
        self.optional_int(section, name).unwrap_or_else(|| panic!("{section}.{name} has a default"))
    }

    pub(super) fn optional_int(&self, section: &str, name: &str) -> Option<u64> {
        match self.value(section, name)? {
            Value::Int(number) => Some(*number),
            other => panic!("{section}.{name} is a number in the table, not {other:?}"),
        }
    }

    pub(super) fn flag(&self, section: &str, name: &str) -> bool {
        match self.value(section, name) {
            Some(Value::Bool(value)) => *value,
            other => panic!("{section}.{name} is true or false in the table, not {other:?}"),
        }
    }

    pub(super) fn span(&self, section: &str, name: &str) -> std::time::Duration {
        match self.value(section, name) {
            Some(Value::Span(span)) => *span,
            other => panic!("{section}.{name} is a time in the table, not {other:?}"),
        }
    }

    pub(super) fn text(&self, section: &str, name: &str) -> Option<&str> {
        match self.value(section, name)? {
            Value::Text(text) => Some(text),
            _ => panic!("{section}.{name} is text in the table"),
        }
    }

    /// Text as what it says; its kind has made sure that it is that.
    pub(super) fn parsed<T: std::str::FromStr>(&self, section: &str, name: &str) -> Option<T> {
        let parse = |text: &str| text.parse().ok();
        let text = self.text(section, name)?;
        Some(parse(text).unwrap_or_else(|| panic!("{section}.{name} was checked by its kind")))
    }

    pub(super) fn list(&self, section: &str, name: &str) -> &[String] {
        match self.value(section, name) {
            Some(Value::List(entries)) => entries,
            None => &[],
            Some(_) => panic!("{section}.{name} is a list in the table"),
        }
    }
}

/// Settings that are being put together, and what is wrong so far.
struct Building<'a> {
    settings: Settings,
    errors: Vec<ConfigError>,
    sources: &'a Sources,
}

/// A variable that is a setting.
struct Variable {
    name: String,
    section: String,
    key: String,
    value: String,
}

impl Building<'_> {
    /// Variables with our prefixes, in the order in which they count.
    fn variables(&self) -> Vec<Variable> {
        let of = |prefix: &'static str| {
            self.sources.environment.iter().filter_map(move |(name, value)| {
                let path = name.strip_prefix(prefix)?.to_lowercase();
                let (section, key) = path.split_once("__").unwrap_or(("", &path));
                Some(Variable {
                    name: name.clone(),
                    section: section.to_owned(),
                    key: key.to_owned(),
                    value: value.clone(),
                })
            })
        };
        PREFIXES.into_iter().flat_map(of).collect()
    }

    fn put_preset(&mut self) {
        let Some(name) = self.settings.text("", "network") else { return };
        let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else { return };
        let table: toml::Table = toml::from_str(preset.toml).expect("networks are TOML, as a test shows");
        self.put_table(&table, &Origin::Network(preset.name));
    }

    fn put_table(&mut self, table: &toml::Table, origin: &Origin) {
        for (name, value) in table {
            match value {
                toml::Value::Table(entries) if keys::is_section(name) => {
                    for (key, value) in entries {
                        self.put_toml(name, key, value, origin);
                    }
                }
                toml::Value::Table(_) => self.put_toml_shape(name, origin),
                _ if keys::is_section(name) => self.errors.push(ConfigError::Shape {
                    origin: origin.clone(),
                    key: name.clone(),
                    got: "a value",
                    expected: "it is the name of a section: [name], and its keys below",
                }),
                value => self.put_toml("", name, value, origin),
            }
        }
    }

    /// A table under a name that is no section.
    fn put_toml_shape(&mut self, name: &str, origin: &Origin) {
        match keys::find("", name) {
            Some(_) => self.errors.push(ConfigError::Shape {
                origin: origin.clone(),
                key: name.to_owned(),
                got: "a section",
                expected: "it is a key with a value",
            }),
            None => self.unknown("", name, origin),
        }
    }

    fn put_toml(&mut self, section: &str, name: &str, value: &toml::Value, origin: &Origin) {
        match keys::find(section, name) {
            Some(key) => self.put(key, key.kind.check(value), origin),
            None => self.unknown(section, name, origin),
        }
    }

    fn put_texts(&mut self, variables: &[Variable], is_wanted: impl Fn(&str) -> bool) {
        for Variable { name, section, key, value } in variables.iter().filter(|variable| is_wanted(&variable.key)) {
            let origin = Origin::Variable(name.clone());
            match keys::find(section, key) {
                Some(key) => self.put(key, key.kind.read(value), &origin),
                None => self.unknown(section, key, &origin),
            }
        }
    }

    fn put_flags(&mut self, is_wanted: impl Fn(&str) -> bool) {
        for (flag, path, value) in self.sources.flags.iter().filter(|(_, path, _)| is_wanted(path)) {
            let (section, name) = path.split_once('.').unwrap_or(("", path));
            let origin = Origin::Flag(flag.clone());
            match keys::find(section, name) {
                Some(key) if key.kind.is_secret() => self.errors.push(ConfigError::Conflict {
                    origin,
                    key: key.name,
                    got: "on the command line".to_owned(),
                    reason: super::KEY_REMEDY.to_owned(),
                }),
                Some(key) => self.put(key, key.kind.read(value), &origin),
                None => self.unknown(section, name, &origin),
            }
        }
    }

    fn put(&mut self, key: &'static Key, value: Result<Value, super::error::BadValue>, origin: &Origin) {
        match value {
            Ok(value) => {
                let setting = self.settings.all.iter_mut().find(|setting| std::ptr::eq(setting.key, key));
                let setting = setting.expect("every key has a setting");
                (setting.value, setting.origin) = (Some(value), origin.clone());
            }
            Err(reason) => self.wrong(ConfigError::Value { origin: origin.clone(), key: key.path(), reason }),
        }
    }

    fn unknown(&mut self, section: &str, name: &str, origin: &Origin) {
        let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        let elsewhere = KEYS.iter().find(|key| key.name == name);
        let why = if section == OPEN_SECTION {
            "this node serves metrics itself; see metrics.listen".to_owned()
        } else if let Some(Key { no_effect: Some(why), .. }) = elsewhere {
            // A slip that changes nothing: some published configurations have it.
            (*why).to_owned()
        } else if self.sources.allow_unknown {
            "there is no such key".to_owned()
        } else {
            let hint = keys::hint(section, name);
            return self.wrong(ConfigError::UnknownKey { origin: origin.clone(), key, hint });
        };
        self.settings.ignored.push((origin.clone(), key, why));
    }

    /// Keeps an error, once: the network's key is looked at twice.
    fn wrong(&mut self, error: ConfigError) {
        if !self.errors.iter().any(|known| known.to_string() == error.to_string()) {
            self.errors.push(error);
        }
    }
}

fn read_toml(path: &Path) -> Result<toml::Table, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let got = fs::metadata(path).map_err(unreadable)?.len();
    if got > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong { path: path.to_owned(), got, limit: MAX_FILE_BYTES });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Toml { path: path.to_owned(), line, reason: error.message().replace('\n', ", ") }
    })
}
