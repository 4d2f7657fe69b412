//! Values of PostgreSQL, in its binary form, as JSON.
//!
//! Whole numbers are numbers, `int8` too. `numeric` is text, so that no digit is lost; so are `NaN` and the
//! infinities. Times are RFC 3339 (`timestamp` without an offset), intervals ISO 8601, `bytea` base64.
//! `json` is what it is, arrays are lists, composite values and ranges are maps.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, TryGetError};
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_postgres::types::{Field, FromSql, Kind, Type};
use uuid::Uuid;

use crate::executor::sql::answer::{write_bare, write_float, write_plain, write_text};

/// Arrays and composite values within each other.
const MAX_DEPTH: usize = 32;
/// Seconds from the epoch of Unix to that of PostgreSQL.
const EPOCH_SECONDS: i64 = 946_684_800;
const MICROS: i64 = 1_000_000;

/// A value as the server sent it; none is null.
pub(super) struct Raw<'a>(pub(super) Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Why a value has no JSON form.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("values of type `{0}` have no JSON form here; cast it, for example to text")]
    Type(String),
    #[error("the time is outside of the years that RFC 3339 has; cast it to text")]
    Time,
    #[error("the JSON has a number or a depth that few can read; cast it to text")]
    Json,
    #[error("the value is nested too deeply")]
    Depth,
    #[error("the value is malformed")]
    Malformed,
}

impl From<TryGetError> for ValueError {
    fn from(_: TryGetError) -> Self {
        Self::Malformed
    }
}

/// Writes a value as JSON.
pub(super) fn write(out: &mut Vec<u8>, ty: &Type, raw: Option<&[u8]>) -> Result<(), ValueError> {
    nested(out, ty, raw, 0)
}

fn nested(
    out: &mut Vec<u8>,
    ty: &Type,
    raw: Option<&[u8]>,
    depth: usize,
) -> Result<(), ValueError> {
    if depth > MAX_DEPTH {
        return Err(ValueError::Depth);
    }
    let Some(mut raw) = raw else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    match ty.kind() {
        Kind::Simple | Kind::Pseudo => {}
        Kind::Domain(inner) => return nested(out, inner, Some(raw), depth),
        Kind::Enum(_) => return text(out, raw),
        Kind::Array(inner) => return array(out, inner, raw, depth),
        Kind::Composite(fields) => return composite(out, fields, raw, depth),
        Kind::Range(inner) => return range(out, inner, raw, depth),
        _ => return Err(ValueError::Type(ty.to_string())),
    }
    match *ty {
        Type::BOOL => write_bare(out, raw.try_get_u8()? != 0),
        Type::INT2 => write_bare(out, raw.try_get_i16()?),
        Type::INT4 => write_bare(out, raw.try_get_i32()?),
        Type::INT8 => write_bare(out, raw.try_get_i64()?),
        Type::OID | Type::XID | Type::CID => write_bare(out, raw.try_get_u32()?),
        Type::FLOAT4 => float4(out, raw.try_get_f32()?),
        Type::FLOAT8 => write_float(out, raw.try_get_f64()?),
        Type::NUMERIC => numeric(out, raw)?,
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::UNKNOWN
        | Type::XML
        | Type::CHAR => text(out, raw)?,
        Type::JSON => json(out, raw)?,
        Type::JSONB => {
            version(&mut raw)?;
            json(out, raw)?;
        }
        Type::JSONPATH => {
            version(&mut raw)?;
            text(out, raw)?;
        }
        Type::BYTEA => write_plain(out, BASE64_STANDARD.encode(raw)),
        Type::UUID => {
            let id = Uuid::from_slice(raw).map_err(|_| ValueError::Malformed)?;
            write_plain(out, id);
        }
        Type::TIMESTAMP => timestamp(out, raw.try_get_i64()?, false)?,
        Type::TIMESTAMPTZ => timestamp(out, raw.try_get_i64()?, true)?,
        Type::DATE => date(out, raw.try_get_i32()?)?,
        Type::TIME => write_plain(out, time(raw.try_get_i64()?)),
        Type::TIMETZ => {
            let time = time(raw.try_get_i64()?);
            write_plain(out, time + &offset(raw.try_get_i32()?));
        }
        Type::INTERVAL => {
            let (micros, days) = (raw.try_get_i64()?, raw.try_get_i32()?);
            write_plain(out, interval(micros, days, raw.try_get_i32()?));
        }
        Type::INET | Type::CIDR => write_plain(out, network(raw, *ty == Type::CIDR)?),
        Type::MACADDR => {
            let pairs: Vec<_> = raw.iter().map(|byte| format!("{byte:02x}")).collect();
            write_plain(out, pairs.join(":"));
        }
        Type::BIT | Type::VARBIT => write_plain(out, bits(raw)?),
        Type::VOID => out.extend_from_slice(b"null"),
        _ if matches!(ty.name(), "citext") => text(out, raw)?,
        _ => return Err(ValueError::Type(ty.to_string())),
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, raw: &[u8]) -> Result<(), ValueError> {
    let text = std::str::from_utf8(raw).map_err(|_| ValueError::Malformed)?;
    write_text(out, text);
    Ok(())
}

/// The binary form of some types begins with the version of that form.
fn version(raw: &mut &[u8]) -> Result<(), ValueError> {
    match raw.try_get_u8()? {
        1 => Ok(()),
        _ => Err(ValueError::Malformed),
    }
}

/// A JSON value, which is passed on as it is once it is sure that others can read it.
fn json(out: &mut Vec<u8>, raw: &[u8]) -> Result<(), ValueError> {
    serde_json::from_slice::<Value>(raw).map_err(|_| ValueError::Json)?;
    out.extend_from_slice(raw);
    Ok(())
}

/// The shortest text that reads back as the same single-precision number.
fn float4(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        serde_json::to_writer(out, &value).expect("writing a number to memory does not fail");
    } else {
        write_float(out, value.into());
    }
}

/// Digits of base 10 000, with the power of the first and the number of decimals to show.
fn numeric(out: &mut Vec<u8>, mut raw: &[u8]) -> Result<(), ValueError> {
    let count = raw.try_get_i16()?;
    let weight = i32::from(raw.try_get_i16()?);
    let sign = raw.try_get_u16()?;
    let scale = usize::from(raw.try_get_u16()?);
    let mut text = String::new();
    match sign {
        0x0000 => {}
        0x4000 => text.push('-'),
        0xC000 => text.push_str("NaN"),
        0xD000 => text.push_str("Infinity"),
        0xF000 => text.push_str("-Infinity"),
        _ => return Err(ValueError::Malformed),
    }
    if sign & 0xC000 == 0xC000 {
        write_plain(out, text);
        return Ok(());
    }
    let mut digits = Vec::new();
    for _ in 0..count {
        digits.push(raw.try_get_u16()?);
    }
    let digit = |place: i32| {
        let digit = usize::try_from(place)
            .ok()
            .and_then(|place| digits.get(place));
        digit.copied().unwrap_or(0)
    };
    if weight < 0 {
        text.push('0');
    }
    for place in 0..=weight {
        // Writing to a string does not fail.
        let _ = match place {
            0 => write!(text, "{}", digit(place)),
            _ => write!(text, "{:04}", digit(place)),
        };
    }
    if scale > 0 {
        text.push('.');
        let mut decimals = String::new();
        let mut place = weight + 1;
        while decimals.len() < scale {
            // Before the first digit of a small number there are zeros.
            let _ = write!(decimals, "{:04}", if place < 0 { 0 } else { digit(place) });
            place += 1;
        }
        text.push_str(&decimals[..scale]);
    }
    write_plain(out, text);
    Ok(())
}

fn infinity(out: &mut Vec<u8>, positive: bool) {
    write_plain(out, if positive { "infinity" } else { "-infinity" });
}

fn timestamp(out: &mut Vec<u8>, micros: i64, zoned: bool) -> Result<(), ValueError> {
    if micros == i64::MAX || micros == i64::MIN {
        infinity(out, micros == i64::MAX);
        return Ok(());
    }
    let time = micros
        .checked_add(EPOCH_SECONDS * MICROS)
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .ok_or(ValueError::Time)?;
    if zoned {
        write_plain(out, time);
    } else {
        write_plain(out, jiff::tz::Offset::UTC.to_datetime(time));
    }
    Ok(())
}

fn date(out: &mut Vec<u8>, days: i32) -> Result<(), ValueError> {
    if days == i32::MAX || days == i32::MIN {
        infinity(out, days == i32::MAX);
        return Ok(());
    }
    const EPOCH: DateTime = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
    let since = SignedDuration::from_hours(i64::from(days) * 24);
    let time = EPOCH.checked_add(since).map_err(|_| ValueError::Time)?;
    write_plain(out, time.date());
    Ok(())
}

/// Hours may be 24, which other libraries do not have.
fn time(micros: i64) -> String {
    let seconds = micros / MICROS;
    let mut text = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    text.push_str(&fraction(micros % MICROS));
    text
}

/// The fraction of a second, without zeros at its end.
fn fraction(micros: i64) -> String {
    if micros == 0 {
        return String::new();
    }
    let digits = format!("{:06}", micros.abs());
    format!(".{}", digits.trim_end_matches('0'))
}

/// An offset, which PostgreSQL counts to the west.
fn offset(west: i32) -> String {
    let sign = if west > 0 { '-' } else { '+' };
    let seconds = west.unsigned_abs();
    let mut text = format!("{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60);
    if !seconds.is_multiple_of(60) {
        let _ = write!(text, ":{:02}", seconds % 60);
    }
    text
}

fn interval(micros: i64, days: i32, months: i32) -> String {
    let mut text = "P".to_owned();
    let mut part = |value: i64, unit: char| {
        if value != 0 {
            let _ = write!(text, "{value}{unit}");
        }
    };
    part((months / 12).into(), 'Y');
    part((months % 12).into(), 'M');
    part(days.into(), 'D');
    if micros != 0 {
        let seconds = micros / MICROS;
        text.push('T');
        let mut part = |value: i64, unit: char| {
            if value != 0 {
                let _ = write!(text, "{value}{unit}");
            }
        };
        part(seconds / 3600, 'H');
        part(seconds / 60 % 60, 'M');
        let (seconds, rest) = (seconds % 60, micros % MICROS);
        if seconds != 0 || rest != 0 {
            let sign = if micros < 0 { "-" } else { "" };
            let _ = write!(text, "{sign}{}{}S", seconds.abs(), fraction(rest));
        }
    }
    if text == "P" {
        text.push_str("T0S");
    }
    text
}

fn network(mut raw: &[u8], is_cidr: bool) -> Result<String, ValueError> {
    let family = raw.try_get_u8()?;
    let bits = raw.try_get_u8()?;
    raw.try_get_u16()?;
    let (address, all) = match (family, raw) {
        (2, raw) => {
            let octets: [u8; 4] = raw.try_into().map_err(|_| ValueError::Malformed)?;
            (Ipv4Addr::from(octets).to_string(), 32)
        }
        (3, raw) => {
            let octets: [u8; 16] = raw.try_into().map_err(|_| ValueError::Malformed)?;
            (Ipv6Addr::from(octets).to_string(), 128)
        }
        _ => return Err(ValueError::Malformed),
    };
    Ok(if is_cidr || bits != all {
        format!("{address}/{bits}")
    } else {
        address
    })
}

fn bits(mut raw: &[u8]) -> Result<String, ValueError> {
    let count = usize::try_from(raw.try_get_i32()?).map_err(|_| ValueError::Malformed)?;
    if count > raw.len() * 8 {
        return Err(ValueError::Malformed);
    }
    let bit = |place: usize| match raw[place / 8] & (0x80 >> (place % 8)) {
        0 => '0',
        _ => '1',
    };
    Ok((0..count).map(bit).collect())
}

/// The next value of an array, composite value or range, which its length comes before.
fn part<'a>(raw: &mut &'a [u8]) -> Result<Option<&'a [u8]>, ValueError> {
    let Ok(length) = usize::try_from(raw.try_get_i32()?) else {
        return Ok(None);
    };
    let (value, rest) = raw.split_at_checked(length).ok_or(ValueError::Malformed)?;
    *raw = rest;
    Ok(Some(value))
}

fn array(out: &mut Vec<u8>, ty: &Type, mut raw: &[u8], depth: usize) -> Result<(), ValueError> {
    let dimensions = raw.try_get_i32()?;
    raw.try_get_i32()?;
    raw.try_get_u32()?;
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        let length = raw.try_get_i32()?;
        if length < 1 {
            return Err(ValueError::Malformed);
        }
        lengths.push(length);
        raw.try_get_i32()?;
    }
    if lengths.is_empty() {
        out.extend_from_slice(b"[]");
        return Ok(());
    }
    dimension(out, ty, &lengths, &mut raw, depth)
}

fn dimension(
    out: &mut Vec<u8>,
    ty: &Type,
    lengths: &[i32],
    raw: &mut &[u8],
    depth: usize,
) -> Result<(), ValueError> {
    let Some((&length, inner)) = lengths.split_first() else {
        let value = part(raw)?;
        return nested(out, ty, value, depth + 1);
    };
    out.push(b'[');
    for place in 0..length {
        if place > 0 {
            out.push(b',');
        }
        dimension(out, ty, inner, raw, depth)?;
    }
    out.push(b']');
    Ok(())
}

fn composite(
    out: &mut Vec<u8>,
    fields: &[Field],
    mut raw: &[u8],
    depth: usize,
) -> Result<(), ValueError> {
    if usize::try_from(raw.try_get_i32()?) != Ok(fields.len()) {
        return Err(ValueError::Malformed);
    }
    out.push(b'{');
    for (place, field) in fields.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_text(out, field.name());
        out.push(b':');
        raw.try_get_u32()?;
        nested(out, field.type_(), part(&mut raw)?, depth + 1)?;
    }
    out.push(b'}');
    Ok(())
}

/// A range: `{"lower": 1, "upper": 5, "bounds": "[)"}` with null for an open end, or `"empty"`.
fn range(out: &mut Vec<u8>, ty: &Type, mut raw: &[u8], depth: usize) -> Result<(), ValueError> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;
    let flags = raw.try_get_u8()?;
    if flags & EMPTY != 0 {
        write_plain(out, "empty");
        return Ok(());
    }
    let mut bound = |out: &mut Vec<u8>, infinite: u8| {
        let value = if flags & infinite == 0 {
            part(&mut raw)?
        } else {
            None
        };
        nested(out, ty, value, depth + 1)
    };
    out.extend_from_slice(b"{\"lower\":");
    bound(out, LOWER_INFINITE)?;
    out.extend_from_slice(b",\"upper\":");
    bound(out, UPPER_INFINITE)?;
    let lower = if flags & LOWER_INCLUSIVE != 0 {
        '['
    } else {
        '('
    };
    let upper = if flags & UPPER_INCLUSIVE != 0 {
        ']'
    } else {
        ')'
    };
    out.extend_from_slice(b",\"bounds\":");
    write_plain(out, format_args!("{lower}{upper}"));
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_are_written_as_the_server_writes_them() {
        for (micros, days, months, text) in [
            (0, 0, 0, "PT0S"),
            (14_706_500_000, 3, 14, "P1Y2M3DT4H5M6.5S"),
            (-14_706_500_000, -3, -14, "P-1Y-2M-3DT-4H-5M-6.5S"),
            (-500_000, 0, 0, "PT-0.5S"),
            (60_000_000, 0, 0, "PT1M"),
        ] {
            assert_eq!(interval(micros, days, months), text);
        }
    }

    proptest! {
        /// Whatever the server sends, it is a value or an error, and a value is JSON.
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for ty in [
                Type::NUMERIC, Type::INT4_ARRAY, Type::TEXT_ARRAY, Type::INT4_RANGE, Type::JSONB,
                Type::TIMESTAMPTZ, Type::DATE, Type::TIMETZ, Type::INTERVAL, Type::INET, Type::VARBIT,
                Type::UUID, Type::TEXT, Type::BYTEA,
            ] {
                let mut out = Vec::new();
                if write(&mut out, &ty, Some(&bytes)).is_ok() {
                    prop_assert!(serde_json::from_slice::<Value>(&out).is_ok(), "{ty} {out:?}");
                }
            }
        }
    }
}
