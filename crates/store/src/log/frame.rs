//! The form of a frame.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload |
//! | 4 | CRC-32 of the length, the number and the payload |
//! | 8 | number of the frame |
//! | … | payload, at least one byte |
//!
//! Numbers are little endian. Segments are written again when they are no longer needed, so what lies
//! after the last frame is whatever was there before: its numbers are lower, or its checksum is wrong.

use std::ops::Range;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 16;

/// Fills in the header of a frame whose payload is in place.
pub(super) fn seal(frame: &mut [u8], number: u64) {
    let length = u32::try_from(frame.len() - HEADER_BYTES)
        .expect("the bound of a group keeps frames far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[8..HEADER_BYTES].copy_from_slice(&number.to_le_bytes());
    let checksum = checksum(frame);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The number and the payload of the frame that begins at `at`, if there is a whole one.
pub(super) fn read(bytes: &[u8], at: usize) -> Option<(u64, Range<usize>)> {
    let header: &[u8; HEADER_BYTES] = bytes.get(at..)?.first_chunk()?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, number @ ..] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let end = at.checked_add(HEADER_BYTES)?.checked_add(length)?;
    if length == 0
        || end > bytes.len()
        || checksum(&bytes[at..end]) != u32::from_le_bytes([c0, c1, c2, c3])
    {
        return None;
    }
    Some((u64::from_le_bytes(number), at + HEADER_BYTES..end))
}

/// Whether a whole frame with a number above `number` begins anywhere at or after `at`.
pub(super) fn has_later(bytes: &[u8], at: usize, number: u64) -> bool {
    // Most of a file is often zeros.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    (at..used).any(|at| {
        // Most places are told by their number alone, which costs no checksum.
        let found = bytes
            .get(at + 8..at + HEADER_BYTES)
            .and_then(<[u8]>::first_chunk);
        let found = found.map_or(0, |field| u64::from_le_bytes(*field));
        found > number && found - number <= MAX_LOST && read(bytes, at).is_some()
    })
}

/// Frames that a damaged place may hide; far more than a segment has.
const MAX_LOST: u64 = 1 << 32;

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(payload);
        seal(&mut frame, number);
        frame
    }

    #[test]
    fn a_sealed_frame_is_read_back() {
        let mut bytes = frame(7, b"first");
        let second = bytes.len();
        bytes.extend(frame(u64::MAX, b"second"));
        let (number, payload) = read(&bytes, 0).unwrap();
        assert_eq!((number, &bytes[payload]), (7, &b"first"[..]));
        let (number, payload) = read(&bytes, second).unwrap();
        assert_eq!((number, &bytes[payload]), (u64::MAX, &b"second"[..]));
        assert_eq!(read(&bytes, bytes.len()), None);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let whole = frame(7, b"payload");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes, 0), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length], 0), None, "cut to {length}");
        }
        assert_eq!(read(&[0; 100], 0), None);
    }

    #[test]
    fn later_frames_are_found_wherever_they_begin() {
        let mut bytes = vec![0xaa; 37];
        bytes.extend(frame(9, b"later"));
        bytes.extend([0; 64]);
        assert!(has_later(&bytes, 0, 8));
        assert!(!has_later(&bytes, 0, 9));
        assert!(!has_later(&bytes, 38, 8));
    }
}
