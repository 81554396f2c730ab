//! DER (ITU-T X.690), as far as signatures need it: writing values, and finding the parts of a certificate.

/// Tag of an integer.
pub(crate) const INTEGER: u8 = 0x02;
/// Tag of a bit string.
const BIT_STRING: u8 = 0x03;
/// Tag of an octet string.
const OCTET_STRING: u8 = 0x04;
/// Tag of null.
const NULL: u8 = 0x05;
/// Tag of an object identifier.
const OBJECT: u8 = 0x06;
/// Tag of a sequence.
pub(crate) const SEQUENCE: u8 = 0x30;
/// Tag of a set.
pub(crate) const SET: u8 = 0x31;

/// A value with its tag and length.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = vec![tag];
    let digits = length.to_be_bytes();
    let digits = digits.get(digits.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default();
    match (length, u8::try_from(length), u8::try_from(digits.len())) {
        (0..128, Ok(short), _) => bytes.push(short),
        (_, _, Ok(count)) => {
            bytes.push(0x80 | count);
            bytes.extend_from_slice(digits);
        }
        // A length in memory has eight bytes at most.
        _ => {}
    }
    bytes.extend(parts.concat());
    bytes
}

/// A sequence.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, parts)
}

/// A set, whose members are in the order of their encodings (X.690, section 11.6).
pub(crate) fn set(mut members: Vec<Vec<u8>>) -> Vec<u8> {
    members.sort_unstable();
    value(SET, &[&members.concat()])
}

/// An octet string.
pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    value(OCTET_STRING, &[content])
}

/// A bit string without bits.
pub(crate) fn no_bits() -> Vec<u8> {
    value(BIT_STRING, &[&[0]])
}

/// A number below 128.
pub(crate) fn small(number: u8) -> Vec<u8> {
    value(INTEGER, &[&[number]])
}

/// An object identifier by its content.
pub(crate) fn object(content: &[u8]) -> Vec<u8> {
    value(OBJECT, &[content])
}

/// The identifier of an algorithm without parameters.
pub(crate) fn algorithm(content: &[u8]) -> Vec<u8> {
    sequence(&[&object(content), &value(NULL, &[])])
}

/// A value as it was read: all of it, and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) all: &'a [u8],
    pub(crate) content: &'a [u8],
}

/// Reads the first value; the bytes behind it.
pub(crate) fn read(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, header) = if first < 0x80 {
        (usize::from(first), 2)
    } else {
        let digits = rest.get(..usize::from(first & 0x7f)).filter(|digits| (1..=4).contains(&digits.len()))?;
        let length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
        (length, 2 + digits.len())
    };
    let (all, behind) = bytes.split_at_checked(header.checked_add(length)?)?;
    Some((Value { tag, all, content: all.get(header..)? }, behind))
}

/// Issuer and serial number of a certificate, both as they are encoded (RFC 5280, section 4.1).
pub(crate) fn issuer_and_serial(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (certificate, _) = read(certificate)?;
    let (content, _) = read(certificate.content)?;
    let (first, rest) = read(content.content)?;
    // The version is there with a tag of its own, or is 1 and left out.
    let (serial, rest) = if first.tag == INTEGER { (first, rest) } else { read(rest)? };
    let (_algorithm, rest) = read(rest)?;
    let (issuer, _) = read(rest)?;
    (serial.tag == INTEGER && issuer.tag == SEQUENCE).then_some((issuer.all, serial.all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(value(4, &[&[7]]), [4, 1, 7]);
        assert_eq!(value(4, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(value(4, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(4, &[&[0; 300], &[0; 3]])[..4], [4, 0x82, 1, 47]);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(content: Vec<u8>, behind: Vec<u8>) {
            let mut bytes = value(4, &[&content]);
            let length = bytes.len();
            bytes.extend(&behind);
            let (read, rest) = read(&bytes).unwrap();
            assert_eq!((read.tag, read.content, read.all.len(), rest), (4, &*content, length, &*behind));
        }

        #[test]
        fn nothing_makes_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = issuer_and_serial(&bytes);
        }
    }
}
