//! Identities with a wildcard, as operators of strongSwan write them: `*@example.net`, `*.example.net`,
//! `O=Example, CN=*`. Each is of one kind, and none stands for everybody.

use std::fmt;

use super::{
    id::{IdKind, Identity},
    name,
};

/// What a peer's identity must look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    text: String,
    what: What,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum What {
    /// A host name or mailbox that ends so, and has something in front of it.
    EndsIn(IdKind, String),
    /// A distinguished name, in DER, in which the value `*` stands for any.
    Name(Vec<u8>),
}

impl Pattern {
    /// Reads a pattern; `None` for what has no wildcard, or has one elsewhere.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let what = if text.contains('=') {
            let der = name::from_text(text)?;
            if !name::has_any(&der) {
                return None;
            }
            What::Name(der)
        } else {
            let end = text.strip_prefix('*')?;
            let kind = match end.as_bytes() {
                [b'@', _, ..] => IdKind::Email,
                // A dot first, so that no label is cut in two.
                [b'.', _, ..] if !end.contains('@') => IdKind::Fqdn,
                _ => return None,
            };
            if end.contains('*') {
                return None;
            }
            What::EndsIn(kind, end.to_owned())
        };
        let text = text.to_owned();
        Some(Self { text, what })
    }

    /// Whether an identity is like that. Names are compared as certificates compare them: host names
    /// without regard to case.
    #[must_use]
    pub fn fits(&self, id: &Identity) -> bool {
        match &self.what {
            What::EndsIn(kind, end) => {
                let data = id.data();
                let (front, rest) = data.split_at(data.len().saturating_sub(end.len()));
                // `a@b@example.net` is no mailbox at example.net that anybody meant.
                let plain = *kind != IdKind::Email || !front.contains(&b'@');
                id.kind() == *kind
                    && !front.is_empty()
                    && plain
                    && rest.eq_ignore_ascii_case(end.as_bytes())
            }
            What::Name(der) => id.kind() == IdKind::Dn && name::fits(der, id.data()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, id: &str) -> bool {
        let pattern = Pattern::from_text(pattern).expect("a pattern");
        pattern.fits(&Identity::from_text(id).expect("an identity"))
    }

    #[test]
    fn the_rest_of_a_name_may_be_anything() {
        assert!(fits("*@example.net", "alice@example.net"));
        assert!(fits("*@example.net", "Alice@EXAMPLE.net"));
        assert!(fits("*.example.net", "vpn.example.net"));
        assert!(fits("*.example.net", "a.b.example.net"));
        for (pattern, id) in [
            ("*@example.net", "@example.net"),
            ("*@example.net", "alice@example.net.evil"),
            ("*@example.net", "alice@badexample.net"),
            ("*@example.net", "a@b@example.net"),
            ("*@example.net", "keyid:alice@example.net"),
            ("*@example.net", "@alice@example.net"),
            ("*.example.net", "example.net"),
            ("*.example.net", ".example.net"),
            ("*.example.net", "badexample.net"),
            ("*.example.net", "alice@vpn.example.net"),
        ] {
            assert!(!fits(pattern, id), "{pattern} {id}");
        }
    }

    #[test]
    fn a_part_of_a_distinguished_name_may_be_anything() {
        assert!(fits("O=Example, CN=*", "O=example, CN=alice"));
        assert!(fits("C=*, O=Example, CN=gw", "C=CH, O=Example, CN=gw"));
        for (pattern, id) in [
            ("O=Example, CN=*", "O=Example, OU=Sales, CN=alice"),
            ("O=Example, CN=*", "O=Example, OU=alice"),
            ("O=Example, CN=*", "O=Other, CN=alice"),
            ("O=Example, CN=*", "CN=alice, O=Example"),
            ("O=Example, CN=*", "alice@example.net"),
        ] {
            assert!(!fits(pattern, id), "{pattern} {id}");
        }
    }

    #[test]
    fn nothing_stands_for_everybody() {
        for text in [
            "",
            "*",
            "*@",
            "*.",
            "a*",
            "*a",
            "vpn.*",
            "al*@example.net",
            "**.example.net",
            "*.*.net",
            "alice@example.net",
            "O=Example, CN=alice",
            "*=a",
        ] {
            assert_eq!(Pattern::from_text(text), None, "{text}");
        }
    }
}
