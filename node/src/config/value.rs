//! Values of settings: what each kind of setting takes, and how it is written.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use alloy::primitives::Address;
use libp2p::Multiaddr;
use zgpu_core::{H256, shard::Shard};

use super::error::BadValue;
use crate::chain::http::HTTP_OR_WS;

/// What a setting takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// true or false.
    Bool,
    /// A whole number from the first to the second, both included.
    Int(u64, u64),
    /// A number from the first to the second, both included.
    Float(f64, f64),
    /// A time such as "3s" or "500ms", from the first to the second in milliseconds.
    Span(u64, u64),
    /// A file or folder.
    Path,
    /// A name of something, such as an environment variable.
    Name,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A secret: 64 hex digits.
    Secret,
    /// A contract or account.
    Address,
    /// 32 bytes.
    Hash,
    /// A share of the flow, id/count.
    Shard,
    /// An IPv4 address.
    Ip,
    /// An IP address and a port.
    Socket,
    /// The URL of a chain's endpoint, which may hold credentials.
    Url,
    /// Several of them.
    Urls,
    /// Addresses of peers.
    Peers,
    /// Addresses of peers, or their records.
    BootNodes,
    /// A device by backend and index, such as cuda:0.
    Device,
}

/// A value that fits its kind. An empty text is a value that is not set.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int(u64),
    Float(f64),
    Span(Duration),
    Text(String),
    List(Vec<String>),
}

/// Longest part of a value that an error repeats, in characters.
const MAX_SHOWN: usize = 60;
/// Most entries of a list.
const MAX_ENTRIES: usize = 256;
/// Digits of a key.
const KEY_DIGITS: usize = 64;

impl Kind {
    /// Checks a value of a TOML document.
    pub(super) fn check(self, value: &toml::Value) -> Result<Value, BadValue> {
        let wrong = || self.refuse(&value.to_string());
        match (self, value) {
            (Kind::Bool, toml::Value::Boolean(value)) => Ok(Value::Bool(*value)),
            (Kind::Int(..), toml::Value::Integer(number)) => {
                let number = u64::try_from(*number).map_err(|_| wrong())?;
                self.check_int(number)
            }
            (Kind::Float(low, high), toml::Value::Float(_) | toml::Value::Integer(_)) => {
                let number = value.as_float().or(value.as_integer().map(|number| number as f64)).ok_or_else(wrong)?;
                if (low..=high).contains(&number) { Ok(Value::Float(number)) } else { Err(wrong()) }
            }
            (Kind::Urls | Kind::Peers | Kind::BootNodes, toml::Value::Array(entries)) => {
                let texts = entries.iter().map(|entry| entry.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                self.check_list(texts.ok_or_else(wrong)?)
            }
            (Kind::Bool | Kind::Int(..) | Kind::Float(..) | Kind::Urls | Kind::Peers | Kind::BootNodes, _) => {
                Err(wrong())
            }
            (_, toml::Value::String(text)) => self.check_text(text),
            _ => Err(wrong()),
        }
    }

    /// Checks a value as the environment and the command line give it: bare text, lists with commas.
    pub(super) fn read(self, text: &str) -> Result<Value, BadValue> {
        let wrong = || self.refuse(text);
        let text = text.trim();
        match self {
            Kind::Bool => match text {
                "true" | "1" => Ok(Value::Bool(true)),
                "false" | "0" => Ok(Value::Bool(false)),
                _ => Err(wrong()),
            },
            Kind::Int(..) => self.check_int(text.parse().map_err(|_| wrong())?),
            Kind::Float(..) => self.check(&toml::Value::Float(text.parse().map_err(|_| wrong())?)),
            Kind::Urls | Kind::Peers | Kind::BootNodes => {
                let entries = text.trim_matches(['[', ']']).split(',');
                let entries = entries.map(|entry| entry.trim().trim_matches('"').to_owned());
                self.check_list(entries.filter(|entry| !entry.is_empty()).collect())
            }
            _ => self.check_text(text),
        }
    }

    fn check_int(self, number: u64) -> Result<Value, BadValue> {
        match self {
            Kind::Int(low, high) if (low..=high).contains(&number) => Ok(Value::Int(number)),
            _ => Err(self.refuse(&number.to_string())),
        }
    }

    fn check_list(self, entries: Vec<String>) -> Result<Value, BadValue> {
        if entries.len() > MAX_ENTRIES {
            return Err(self.refuse(&format!("a list of {} entries", entries.len())));
        }
        for entry in &entries {
            let fits = match self {
                Kind::Urls => is_url(entry),
                Kind::BootNodes if entry.starts_with("enr:") => true,
                _ => entry.parse::<Multiaddr>().is_ok(),
            };
            if !fits {
                return Err(self.refuse(entry));
            }
        }
        Ok(Value::List(entries))
    }

    fn check_text(self, text: &str) -> Result<Value, BadValue> {
        let fits = match self {
            Kind::Span(low, high) => {
                let span = humantime::parse_duration(text).map_err(|_| self.refuse(text))?;
                if !(u128::from(low)..=u128::from(high)).contains(&span.as_millis()) {
                    return Err(self.refuse(text));
                }
                return Ok(Value::Span(span));
            }
            Kind::OneOf(words) => words.contains(&text),
            _ if text.is_empty() => true,
            Kind::Path | Kind::Name => !text.contains('\0'),
            Kind::Secret => is_hex(text, KEY_DIGITS),
            Kind::Hash => text.parse::<H256>().is_ok(),
            Kind::Address => text.parse::<Address>().is_ok(),
            Kind::Shard => text.parse::<Shard>().is_ok(),
            Kind::Ip => text.parse::<Ipv4Addr>().is_ok(),
            Kind::Socket => text.parse::<SocketAddr>().is_ok(),
            Kind::Url => is_url(text),
            Kind::Device => text.split_once(':').is_some_and(|(backend, index)| {
                ["cpu", "cuda", "wgpu"].contains(&backend) && index.parse::<u16>().is_ok()
            }),
            _ => false,
        };
        if fits { Ok(Value::Text(text.to_owned())) } else { Err(self.refuse(text)) }
    }

    /// True when nothing of a value may be shown, whatever it is.
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Kind::Secret)
    }

    /// True when a value may hold credentials.
    pub(super) fn may_hold_credentials(self) -> bool {
        matches!(self, Kind::Secret | Kind::Url | Kind::Urls)
    }

    fn refuse(self, got: &str) -> BadValue {
        let got = match self.may_hold_credentials() {
            true => format!("{} characters that are not shown", got.chars().count()),
            false => match got.char_indices().nth(MAX_SHOWN) {
                Some((end, _)) => format!("{}…", &got[..end]),
                None if got.is_empty() => "nothing".to_owned(),
                None => got.to_owned(),
            },
        };
        BadValue { got, expected: self.to_string() }
    }
}

/// What the kind takes, in words that end an error.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |millis: u64| humantime::format_duration(Duration::from_millis(millis));
        match self {
            Kind::Bool => f.write_str("true or false"),
            Kind::Int(low, u64::MAX) => write!(f, "a whole number from {low} on"),
            Kind::Int(low, high) => write!(f, "a whole number from {low} to {high}"),
            Kind::Float(low, high) => write!(f, "a number from {low} to {high}"),
            Kind::Span(low, high) => {
                write!(f, "a time from \"{}\" to \"{}\", such as \"3s\" or \"500ms\"", span(*low), span(*high))
            }
            Kind::Path => f.write_str("the path of a file or folder, in quotes"),
            Kind::Name => f.write_str("a name, in quotes"),
            Kind::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Secret => f.write_str("64 hex digits, in quotes"),
            Kind::Address => f.write_str("an address: 0x and 40 hex digits, in quotes"),
            Kind::Hash => f.write_str("0x and 64 hex digits, in quotes"),
            Kind::Shard => f.write_str("a share id/count with a power of two as count, such as \"0/1\" or \"3/4\""),
            Kind::Ip => f.write_str("an IPv4 address, such as \"0.0.0.0\""),
            Kind::Socket => f.write_str("an IP address and a port, such as \"127.0.0.1:5678\""),
            Kind::Url => f.write_str("an http, https, ws or wss URL, such as \"http://127.0.0.1:8545\""),
            Kind::Urls => f.write_str("a list of http, https, ws or wss URLs, such as [\"http://127.0.0.1:8545\"]"),
            Kind::BootNodes => {
                f.write_str("a list of at most 256 multiaddresses or records, such as [\"/ip4/192.0.2.1/udp/1234\"]")
            }
            Kind::Peers => f.write_str("a list of at most 256 multiaddresses, such as [\"/ip4/192.0.2.1/tcp/1234\"]"),
            Kind::Device => f.write_str("a device as `zgpu devices` names it, such as \"cuda:0\""),
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let text = text.trim();
    let text = text.strip_prefix("0x").unwrap_or(text);
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        HTTP_OR_WS.contains(&scheme)
            && !rest.is_empty()
            && !rest.starts_with('/')
            && text.chars().all(|c| !c.is_whitespace())
    })
}

impl Value {
    /// True for an empty text or list: nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Value::Text(text) => text.is_empty(),
            Value::List(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// As a TOML document has it.
    pub(super) fn to_toml(&self) -> toml::Value {
        match self {
            Value::Bool(value) => (*value).into(),
            // A larger number has no form in TOML; limits of such settings mean the same.
            Value::Int(number) => i64::try_from(*number).unwrap_or(i64::MAX).into(),
            Value::Float(number) => (*number).into(),
            Value::Span(span) => humantime::format_duration(*span).to_string().into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(entries) => entries.iter().map(String::as_str).collect::<Vec<_>>().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: Kind, text: &str) -> String {
        let from_text = kind.read(text).unwrap_err().to_string();
        if let Some(value) = toml::from_str::<toml::Table>(&format!("a = {text}")).ok().and_then(|mut t| t.remove("a"))
        {
            kind.check(&value).unwrap_err();
        }
        from_text
    }

    #[test]
    fn every_kind_takes_what_fits_in_both_forms() {
        let address = "0x62D4144dB0F0a6fBBaeb6296c785C71B3D57C526";
        let hash = "0x62d4144db0f0a6fbbaeb6296c785c71b3d57c52662d4144db0f0a6fbbaeb6296";
        for (kind, toml, text) in [
            (Kind::Bool, "true".to_owned(), "1"),
            (Kind::Int(1, 9), "9".into(), "9"),
            (Kind::Float(0.0, 1.0), "0.5".into(), "0.5"),
            (Kind::Span(1, 3_600_000), "'1m 3s'".into(), "1m 3s"),
            (Kind::Path, "'a b'".into(), "a b"),
            (Kind::OneOf(&["a", "b"]), "'b'".into(), "b"),
            (Kind::Address, format!("'{address}'"), address),
            (Kind::Address, "''".into(), ""),
            (Kind::Hash, format!("'{hash}'"), hash),
            (Kind::Secret, format!("'{}'", &hash[2..]), &hash[2..]),
            (Kind::Shard, "'3 / 4'".into(), "3 / 4"),
            (Kind::Ip, "'192.0.2.1'".into(), "192.0.2.1"),
            (Kind::Socket, "'[::1]:80'".into(), "[::1]:80"),
            (Kind::Url, "'https://a.example/key'".into(), "https://a.example/key"),
            (Kind::Url, "'wss://a.example/key'".into(), "wss://a.example/key"),
            (Kind::Urls, "['http://a', 'ws://b']".into(), "http://a, ws://b"),
            (Kind::Peers, "['/ip4/1.2.3.4/udp/1234']".into(), "/ip4/1.2.3.4/udp/1234"),
            (Kind::Device, "'cuda:0'".into(), "cuda:0"),
        ] {
            let value = &toml::from_str::<toml::Table>(&format!("a = {toml}")).unwrap()["a"];
            let checked = kind.check(value).unwrap();
            assert_eq!(checked, kind.read(text).unwrap());
            assert_eq!(kind.check(&checked.to_toml()).unwrap(), checked, "{toml} is written as it is read");
        }
    }

    #[test]
    fn refusals_name_what_was_given_and_what_fits() {
        for (kind, text, words) in [
            (Kind::Bool, "2", "2; it takes true or false"),
            (Kind::Int(1, 9), "10", "10; it takes a whole number from 1 to 9"),
            (Kind::Int(0, u64::MAX), "-1", "a whole number from 0 on"),
            (Kind::Float(0.0, 1.0), "nan", "a number from 0 to 1"),
            (Kind::Span(1000, 60_000), "500ms", "500ms; it takes a time from \"1s\" to \"1m\""),
            (Kind::Span(1000, 60_000), "3", "a time from"),
            (Kind::OneOf(&["a", "b"]), "c", "one of a, b"),
            (Kind::Address, "0x12", "40 hex digits"),
            (Kind::Hash, "0x12", "64 hex digits"),
            (Kind::Shard, "1/3", "power of two"),
            (Kind::Ip, "localhost", "an IPv4 address"),
            (Kind::Ip, "::1", "an IPv4 address"),
            (Kind::Socket, "127.0.0.1", "and a port"),
            (Kind::Peers, "1.2.3.4", "multiaddresses"),
            (Kind::Device, "gpu:0", "`zgpu devices`"),
            (Kind::Device, "cuda", "`zgpu devices`"),
        ] {
            let error = error(kind, text);
            assert!(error.contains(words), "{error}");
        }
        let long = error(Kind::Ip, &"x".repeat(100));
        assert!(long.contains('…') && long.len() < 200, "{long}");
        for text in ["ftp://host/hunter2", "hunter2", "http://", "http:// hunter2"] {
            for error in [error(Kind::Url, text), error(Kind::Urls, text), error(Kind::Secret, text)] {
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }
}
