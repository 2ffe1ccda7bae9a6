//! A configuration as a TOML document that explains itself, and that reads back as the same configuration.

use std::fmt::Write;

use super::{
    keys::Key,
    layers::{Origin, Setting, Settings},
    value::{Kind, Value},
};

/// Longest line of a comment, in characters.
const WIDTH: usize = 110;

const HEAD: &str = "\
Configuration of `zgpu node`, with every key there is. Values come from, each before the one behind it: the command \
line, the environment (ZGPU_NODE__KEY=… and ZGPU_NODE__SECTION__KEY=…; ZGS_NODE__… as well), the file, the network that is \
named, and the defaults. Keys that are commented out are not set, or have no effect here.";

impl Settings {
    /// The document. Secrets, and parts of URLs that may be secret, are not in it.
    pub(super) fn print(&self) -> String {
        let mut text = String::new();
        comment(&mut text, HEAD);
        let mut section = "";
        for setting in &self.all {
            if setting.key.section != section {
                section = setting.key.section;
                let _ = write!(text, "\n[{section}]\n");
            }
            text.push('\n');
            print_setting(&mut text, setting);
        }
        text
    }
}

fn print_setting(text: &mut String, setting: &Setting) {
    let Setting { key, value, origin } = setting;
    comment(text, key.doc);
    if let Some(why) = key.no_effect {
        comment(text, &format!("No effect here: {why}."));
    }
    let is_set = *origin != Origin::Default;
    if is_set {
        comment(
            text,
            &format!("Default: {}. This value: {origin}.", if key.default.is_empty() { "none" } else { key.default }),
        );
    }
    let (shown, is_whole) = shown(key, value.as_ref());
    let is_active = is_whole && value.is_some() && (is_set || key.no_effect.is_none());
    let _ = writeln!(text, "{}{} = {shown}", if is_active { "" } else { "# " }, key.name);
}

/// The value as TOML, and whether that is all of it.
fn shown(key: &Key, value: Option<&Value>) -> (String, bool) {
    match (key.kind, value) {
        (_, None) => (example(key.kind).to_owned(), false),
        (Kind::Secret, Some(value)) if !value.is_empty() => ("\"***\"".to_owned(), false),
        (Kind::Url, Some(Value::Text(url))) => {
            let shown = without_credentials(url);
            let is_whole = shown == *url;
            (toml::Value::from(shown).to_string(), is_whole)
        }
        (Kind::Urls, Some(Value::List(urls))) => {
            let shown: Vec<String> = urls.iter().map(|url| without_credentials(url)).collect();
            let is_whole = shown == *urls;
            (toml::Value::from(shown).to_string(), is_whole)
        }
        (_, Some(value)) => (value.to_toml().to_string(), true),
    }
}

/// What a value of the kind may look like, for keys that are not set.
fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Int(..) => "1000000000",
        Kind::Hash | Kind::Address => "\"0x…\"",
        Kind::Shard => "\"0/1\"",
        Kind::Ip => "\"192.0.2.1\"",
        _ => "\"…\"",
    }
}

/// The URL without what may be a secret: user and password, path and query.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let user = if host.len() < authority.len() { "***@" } else { "" };
    let behind = if behind.is_empty() || behind == "/" { behind } else { "/***" };
    format!("{scheme}://{user}{host}{behind}")
}

/// Writes `line` as a comment, broken at spaces.
fn comment(text: &mut String, line: &str) {
    let mut rest = line;
    loop {
        let end = match rest.char_indices().nth(WIDTH) {
            Some((limit, _)) => rest[..limit].rfind(' ').unwrap_or(rest.len()),
            None => rest.len(),
        };
        let _ = writeln!(text, "# {}", &rest[..end]);
        rest = rest[end..].trim_start();
        if rest.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        for (url, expected) in [
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://a.example/", "https://a.example/"),
            ("https://u:hunter2@a.example/v3/key?q=1", "https://***@a.example/***"),
            ("https://a.example?key=hunter2", "https://a.example/***"),
            ("wss://u:hunter2@a.example/v3/key", "wss://***@a.example/***"),
            ("hunter2", "***"),
        ] {
            assert_eq!(without_credentials(url), expected);
        }
    }

    #[test]
    fn comments_are_broken_at_spaces() {
        let mut text = String::new();
        comment(&mut text, &"word ".repeat(50));
        assert!(text.lines().all(|line| line.starts_with("# word") && line.len() <= WIDTH + 2), "{text}");
        assert_eq!(text.matches("word").count(), 50);
    }
}
