//! URLs of engines: their parts, and as much of them as may be shown.

use super::error::BackendError;

/// Options that are secrets.
const SECRETS: [&str; 5] = ["pass", "password", "sslpassword", "token", "auth"];

/// The longest name of an application; bytes.
const PREFIX: usize = 32;

/// A URL taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// The part before the first colon.
    pub(super) scheme: &'a str,
    /// The whole up to its options.
    pub(super) address: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    /// Options stand after the last question mark.
    pub(super) fn parse(text: &'a str) -> Result<Self, BackendError> {
        let (address, query) = text.rsplit_once('?').unwrap_or((text, ""));
        match address.split_once(':') {
            Some((scheme, _)) if !scheme.is_empty() => Ok(Self { scheme, address, query }),
            _ => Err(BackendError::Invalid("the URL of an engine begins with its scheme, such as memory:".into())),
        }
    }

    /// The part after the scheme, without the slashes that mean no host: `sqlite:///var/x` is `sqlite:/var/x`.
    #[cfg(feature = "sqlite")]
    pub(super) fn path(&self) -> &'a str {
        let rest = self.address.get(self.scheme.len() + 1..).unwrap_or_default();
        rest.strip_prefix("//").unwrap_or(rest)
    }

    /// Names and values, in their order.
    pub(super) fn options(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The value of an option that is given at most once.
    pub(super) fn option(&self, name: &str) -> Option<&'a str> {
        self.options().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The name under which an application has its part of an engine.
    pub(super) fn prefix(&self) -> Result<Option<&'a str>, BackendError> {
        let is_name = |name: &&str| {
            (1..=PREFIX).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        match self.option("prefix") {
            Some(prefix) if !is_name(&prefix) => Err(BackendError::Invalid(format!(
                "prefix in the URL of an engine: 1 to {PREFIX} letters, digits, - and _"
            ))),
            prefix => Ok(prefix),
        }
    }

    /// Refuses options that `engine` does not know, any that comes twice, and a prefix that is none.
    pub(super) fn only(&self, engine: &str, known: &[&str]) -> Result<(), BackendError> {
        if self.query.contains('@') {
            // Part of a password, which no error repeats.
            return Err(BackendError::Invalid(format!("the URL of {engine}: a ? in a password is written %3F")));
        }
        for (n, (name, _)) in self.options().enumerate() {
            if !known.contains(&name) {
                return Err(BackendError::Invalid(format!("{name} in the URL of {engine}")));
            }
            if self.options().take(n).any(|(before, _)| before == name) {
                return Err(BackendError::Invalid(format!("{name} comes twice in the URL of {engine}")));
            }
        }
        self.prefix().map(drop)
    }
}

/// The URL without users, passwords and tokens, for logs and errors.
pub(super) fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once(':') else { return "…".to_owned() };
    let (slashes, rest) = rest.strip_prefix("//").map_or(("", rest), |rest| ("//", rest));
    // A password may hold any character if its URL is badly written: only what follows the last @ is not part of it.
    let host = if scheme == "sqlite" { None } else { rest.rsplit_once('@') };
    let (hidden, rest) = host.map_or(("", rest), |(_, rest)| ("…@", rest));
    let (address, query) = rest.rsplit_once('?').map_or((rest, ""), |(address, query)| (address, query));
    let mut shown = [scheme, ":", slashes, hidden, address].concat();
    for (n, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_secret = SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        shown.push(if n == 0 { '?' } else { '&' });
        shown.extend([name, "=", if is_secret { "…" } else { value }]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = Url::parse("sqlite:./a?b?prefix=x&sync=yes&bare").unwrap();
        assert_eq!((url.scheme, url.address), ("sqlite", "sqlite:./a?b"));
        assert_eq!(url.options().collect::<Vec<_>>(), [("prefix", "x"), ("sync", "yes"), ("bare", "")]);
        assert_eq!(Url::parse("redis://h/1").unwrap().options().next(), None);
        for text in ["", "memory", ":x", "?prefix=a:b"] {
            assert!(matches!(Url::parse(text), Err(BackendError::Invalid(_))), "{text}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn paths() {
        for (text, path) in [
            ("sqlite:x", "x"),
            ("sqlite:/x", "/x"),
            ("sqlite:///x", "/x"),
            ("sqlite://x", "x"),
            ("sqlite:////x", "//x"),
        ] {
            assert_eq!(Url::parse(text).unwrap().path(), path, "{text}");
        }
    }

    #[test]
    fn prefixes_are_names() {
        let prefix = |text: &str| Url::parse(text).unwrap().prefix().map(|prefix| prefix.map(str::to_owned));
        let (fits, long) = ("a".repeat(PREFIX), "a".repeat(PREFIX + 1));
        for good in ["a", "A-1_b", &fits] {
            assert_eq!(prefix(&format!("memory:?prefix={good}")).unwrap().as_deref(), Some(good));
        }
        assert_eq!(prefix("memory:").unwrap(), None);
        for bad in ["", "a.b", "a{b}", "../a", "é", &long] {
            assert!(matches!(prefix(&format!("memory:?prefix={bad}")), Err(BackendError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("memory:", "memory:"),
            ("sqlite:/home/a@b?prefix=x", "sqlite:/home/a@b?prefix=x"),
            ("redis://127.0.0.1:6379/1?prefix=a", "redis://127.0.0.1:6379/1?prefix=a"),
            ("redis://:secret@host", "redis://…@host"),
            ("redis:secret@host", "redis:…@host"),
            ("rediss://secret:secret@host:1/2?prefix=a&x", "rediss://…@host:1/2?prefix=a&x="),
            ("postgres://ann:secret/secret@b:secret@host/db", "postgres://…@host/db"),
            ("postgres://ann:secret?secret@host/db", "postgres://…@host/db"),
            ("unix:///s?db=1&pass=secret", "unix:///s?db=1&pass=…"),
            ("postgres:///db?host=/run&Password=secret&user=ann", "postgres:///db?host=/run&Password=…&user=ann"),
            ("nats://secret@a,secret@b:4222", "nats://…@b:4222"),
            ("secret", "…"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }
}
