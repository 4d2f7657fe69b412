use std::io::{Seek as _, SeekFrom, Write as _};

use levelflow_common::Code;
use tempfile::TempDir;

use super::*;

const SEGMENT: u64 = 256;

fn open(dir: &TempDir, after: u64) -> Result<(Log, Vec<(u64, Bytes)>), StoreError> {
    let mut found = Vec::new();
    let log = Log::open(dir.path(), SEGMENT, after, |number, payload| {
        found.push((number, payload));
        Ok(())
    })?;
    Ok((log, found))
}

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8; 20 + number as usize % 7]
}

fn append(log: &mut Log, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend(payload(number));
        assert_eq!(log.append(&mut frame).unwrap(), number);
    }
}

fn expected(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u64, Bytes)> {
    numbers
        .map(|number| (number, payload(number).into()))
        .collect()
}

fn files(dir: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn frames_are_there_after_reopening_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, found) = open(&dir, 0).unwrap();
    assert_eq!(found, []);
    append(&mut log, 1..=30);
    drop(log);
    let (mut log, found) = open(&dir, 0).unwrap();
    assert_eq!(found, expected(1..=30));
    append(&mut log, 31..=40);
    drop(log);
    assert_eq!(open(&dir, 25).unwrap().1, expected(26..=40));
    assert_eq!(open(&dir, 40).unwrap().1, []);
}

#[test]
fn released_segments_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0).unwrap();
    for start in (1..400).step_by(20) {
        append(&mut log, start..=start + 19);
        log.release(start + 9).unwrap();
    }
    assert!(files(&dir).len() <= 6, "{}", files(&dir).len());
    drop(log);
    let (mut log, found) = open(&dir, 390).unwrap();
    assert_eq!(found, expected(391..=400));
    // Frames of an earlier use lie behind the new ones, and are not taken for them.
    append(&mut log, 401..=403);
    drop(log);
    assert_eq!(open(&dir, 390).unwrap().1, expected(391..=403));
}

#[test]
fn a_frame_that_was_not_written_to_its_end_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0).unwrap();
    append(&mut log, 1..=3);
    drop(log);
    let mut torn = vec![0; HEADER_BYTES + 30];
    frame::seal(&mut torn, 4);
    let end: usize = (1..=3)
        .map(|number| HEADER_BYTES + payload(number).len())
        .sum();
    overwrite(&files(&dir)[0], end as u64, &torn[..HEADER_BYTES + 12]);
    overwrite(&files(&dir)[0], (end + HEADER_BYTES + 12) as u64, &[0xff]);
    let (mut log, found) = open(&dir, 0).unwrap();
    assert_eq!(found, expected(1..=3));
    append(&mut log, 4..=5);
    drop(log);
    assert_eq!(open(&dir, 0).unwrap().1, expected(1..=5));
}

#[test]
fn damage_before_later_frames_is_told_and_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0).unwrap();
    append(&mut log, 1..=3);
    drop(log);
    let second = HEADER_BYTES + payload(1).len();
    for at in [second, second + 4, second + HEADER_BYTES + 2] {
        let path = &files(&dir)[0];
        let before = fs::read(path).unwrap();
        overwrite(path, at as u64, &[before[at] ^ 0x40]);
        let error = open(&dir, 0).unwrap_err();
        assert_eq!(error.code(), Code::StoreCorrupt);
        assert_eq!(
            error.to_string(),
            format!(
                "frame 2 of the log is damaged or missing in {}",
                path.display()
            )
        );
        fs::write(path, before).unwrap();
    }
    assert_eq!(open(&dir, 0).unwrap().1, expected(1..=3));
}

#[test]
fn a_missing_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0).unwrap();
    append(&mut log, 1..=30);
    drop(log);
    let files = files(&dir);
    assert!(files.len() > 3);
    fs::remove_file(&files[1]).unwrap();
    let error = open(&dir, 0).unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt);
    fs::remove_file(&files[0]).unwrap();
    assert!(open(&dir, 0).is_err());
}

#[test]
fn a_frame_longer_than_a_segment_has_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0).unwrap();
    append(&mut log, 1..=2);
    let mut long = vec![7; HEADER_BYTES + 3 * SEGMENT as usize];
    log.append(&mut long).unwrap();
    append(&mut log, 4..=5);
    drop(log);
    let (mut log, found) = open(&dir, 2).unwrap();
    assert_eq!(found[0].1.len(), 3 * SEGMENT as usize);
    assert_eq!(found[1..], expected(4..=5));
    log.release(3).unwrap();
    let lengths = files(&dir)
        .into_iter()
        .map(|file| fs::metadata(file).unwrap().len());
    assert!(lengths.max().unwrap() <= SEGMENT);
}

#[test]
fn a_deleted_log_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0).unwrap();
    append(&mut log, 1..=30);
    log.delete().unwrap();
    assert!(!dir.path().exists());
}
