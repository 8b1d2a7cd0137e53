//! Distinguished names: as operators of other gateways write them, and when two of them are the same
//! (RFC 5280, 7.1). One name has several encodings: a CA may have used another type of string than the
//! peer does in its identity.

use std::str::FromStr as _;

use der::{Decode as _, Encode as _, Tag, Tagged as _};
use x509_cert::{
    attr::AttributeTypeAndValue,
    name::{RdnSequence, RelativeDistinguishedName},
};

/// The DER of `C=CH, O=Example, CN=gw`, in the order written, as both Swans read it. RFC 4514 has the
/// reverse order. A backslash keeps the comma after it from ending a part.
pub(super) fn from_text(text: &str) -> Option<Vec<u8>> {
    let mut name = RdnSequence::default();
    let mut escaped = false;
    let ends_part = |letter: char| {
        let ends = letter == ',' && !escaped;
        escaped = letter == '\\' && !escaped;
        ends
    };
    for part in text.split(ends_part) {
        let (key, value) = part.split_once('=')?;
        let part = format!("{}={}", key.trim(), value.trim());
        name.push(RelativeDistinguishedName::from_str(&part).ok()?);
    }
    name.to_der().ok()
}

/// The name as text that [`from_text`] reads, without control characters; `None` if it is not one.
pub(crate) fn to_text(der: &[u8]) -> Option<String> {
    let name = RdnSequence::from_der(der).ok()?;
    let parts: Vec<_> = name.iter().map(ToString::to_string).collect();
    let visible = |letter: char| if letter.is_control() { '?' } else { letter };
    Some(parts.join(", ").chars().map(visible).collect())
}

/// Whether two names in DER are the same: as many parts, in the same order, and each with the same
/// attributes. Strings are compared without regard to their type, to ASCII case, or to how many blanks
/// stand where one does.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    alike(one, other, same_attribute)
}

/// Whether a name in DER begins with all parts of another, as one below it does (RFC 5280, 4.2.1.10).
/// `None` if that cannot be said: a name cannot be read, or a string is of a type that is not compared.
pub(crate) fn begins(name: &[u8], base: &[u8]) -> Option<bool> {
    let (name, base) = (
        RdnSequence::from_der(name).ok()?,
        RdnSequence::from_der(base).ok()?,
    );
    let parts = || name.iter().zip(base.iter());
    let same = |(part, base)| same_part(part, base, same_attribute);
    if base.len() <= name.len() && parts().all(same) {
        return Some(true);
    }
    let mut attributes = parts().flat_map(|(part, _)| part.iter());
    attributes
        .all(|attribute| text(attribute).is_some())
        .then_some(false)
}

/// The same, where the value [`ANY`] in the first name stands for any.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    alike(pattern, name, |wanted, other| {
        wanted.oid == other.oid && (is_any(wanted) || same_attribute(wanted, other))
    })
}

/// Whether a name in DER has a value that stands for any.
pub(super) fn has_any(der: &[u8]) -> bool {
    let name = RdnSequence::from_der(der).unwrap_or_default();
    name.iter().any(|part| part.iter().any(is_any))
}

/// What stands for any value of an attribute.
const ANY: &str = "*";

fn is_any(attribute: &AttributeTypeAndValue) -> bool {
    text(attribute) == Some(ANY)
}

fn alike(
    one: &[u8],
    other: &[u8],
    same: impl Fn(&AttributeTypeAndValue, &AttributeTypeAndValue) -> bool,
) -> bool {
    let parse = |der| {
        RdnSequence::from_der(der)
            .ok()
            .filter(|name| !name.is_empty())
    };
    let (Some(one), Some(other)) = (parse(one), parse(other)) else {
        return false;
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(other.iter())
            .all(|(one, other)| same_part(one, other, &same))
}

fn same_part(
    one: &RelativeDistinguishedName,
    other: &RelativeDistinguishedName,
    same: impl Fn(&AttributeTypeAndValue, &AttributeTypeAndValue) -> bool,
) -> bool {
    let found = |wanted| other.iter().any(|other| same(wanted, other));
    one.len() == other.len() && one.iter().all(found)
}

fn same_attribute(one: &AttributeTypeAndValue, other: &AttributeTypeAndValue) -> bool {
    let same_text = || {
        text(one)
            .zip(text(other))
            .is_some_and(|(one, other)| folded(one).eq(folded(other)))
    };
    one.oid == other.oid && (one.value == other.value || same_text())
}

fn text(attribute: &AttributeTypeAndValue) -> Option<&str> {
    let value = &attribute.value;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            std::str::from_utf8(value.value()).ok()
        }
        _ => None,
    }
}

fn folded(text: &str) -> impl Iterator<Item = u8> {
    text.split_ascii_whitespace()
        .flat_map(|word| word.bytes().chain([b' ']))
        .map(|octet| octet.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(text: &str) -> Vec<u8> {
        from_text(text).expect("a name")
    }

    #[test]
    fn text_keeps_its_order_and_reads_back() {
        let name = der("C=CH, O=Example\\, Inc., CN=gw.example");
        let text = to_text(&name).expect("a name");
        assert!(
            text.starts_with("C=CH, O=Example") && text.ends_with("CN=gw.example"),
            "{text}"
        );
        assert_eq!(der(&text), name);
        for wrong in ["", "CN", "CN=a,", "nonsense=a"] {
            assert_eq!(from_text(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn names_are_the_same_whatever_their_strings_are_encoded_as() {
        let name = der("O=Example  Org, CN=Gate");
        assert!(same(&name, &der("O=example org,CN=gate")));
        // The last string as PrintableString.
        let mut printable = name.clone();
        let at = printable.len() - 6;
        assert_eq!(printable[at], 0x0c);
        printable[at] = 0x13;
        assert!(same(&name, &printable));
        for other in [
            "CN=Gate, O=Example Org",
            "O=Example Org",
            "O=Example Org, CN=Gat",
            "O=ExampleOrg, CN=Gate",
            "OU=Example Org, CN=Gate",
            "O=Example Org, CN=Gate, CN=Gate",
        ] {
            assert!(!same(&name, &der(other)), "{other}");
        }
        assert!(!same(&[], &[]) && !same(&[0x30, 0], &[0x30, 0]));
    }
}
