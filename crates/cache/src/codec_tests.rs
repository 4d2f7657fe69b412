use proptest::prelude::*;

use super::*;

const KEY: CacheKey = CacheKey::from_bytes([7; 32]);
const LIMIT: usize = 1 << 20;
const THRESHOLD: usize = 1024;

fn sample(output: impl Into<Bytes>) -> Entry {
    Entry {
        computed: Computed::output(output, Duration::from_millis(1500)),
        labels: Labels {
            tenant: "acme".to_owned(),
            workflow: "digest".to_owned(),
            tags: vec!["a".to_owned(), "b".to_owned()],
        },
        handler_version: "v2".to_owned(),
        created_at: Timestamp::from_micros(10),
        expires_at: Timestamp::from_micros(1_000),
    }
}

fn pack(entry: &Entry) -> Packed {
    Packed::pack(entry, THRESHOLD, LIMIT).unwrap()
}

fn read(key: &CacheKey, sealed: &Bytes) -> Result<(Entry, Timestamp), CorruptEntry> {
    let (packed, expires_at) = Packed::open(key, sealed)?;
    Ok((packed.unpack(LIMIT)?, expires_at))
}

/// The bytes with another checksum, as whoever can write to a tier could make them.
fn resealed(mut sealed: Vec<u8>) -> Bytes {
    let content = sealed.len() - CHECKSUM_BYTES;
    let checksum = checksum(&KEY, &sealed[..content]);
    sealed[content..].copy_from_slice(&checksum);
    sealed.into()
}

fn entries() -> impl Strategy<Value = Entry> {
    let bytes = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            (any::<u8>(), 0..4_000usize).prop_map(|(byte, count)| vec![byte; count]),
        ]
        .prop_map(Bytes::from)
    };
    let failure = (
        prop::sample::select(Code::ALL),
        ".{0,20}",
        any::<bool>(),
        proptest::option::of(0..1_000_000u64),
    )
        .prop_map(|(code, message, retryable, wait)| Failure {
            code,
            message,
            retryable,
            retry_after: wait.map(|wait| HumanDuration(Duration::from_micros(wait))),
        });
    let result = prop_oneof![bytes().prop_map(Ok), failure.prop_map(Err)];
    (
        result,
        prop::collection::vec(bytes(), 0..4),
        any::<[u64; 3]>(),
        prop::collection::vec(".{0,8}", 0..4),
        [".{0,8}", ".{0,8}", ".{0,8}"],
    )
        .prop_map(|(result, chunks, times, tags, texts)| {
            let [tenant, workflow, handler_version] = texts;
            Entry {
                computed: Computed {
                    result,
                    chunks,
                    took: Duration::from_micros(times[0]),
                },
                labels: Labels {
                    tenant,
                    workflow,
                    tags,
                },
                handler_version,
                created_at: Timestamp::from_micros(times[1]),
                expires_at: Timestamp::from_micros(times[2]),
            }
        })
}

proptest! {
    #[test]
    fn an_entry_reads_back(entry in entries(), expires_at: u64) {
        let expires_at = Timestamp::from_micros(expires_at);
        let sealed = pack(&entry).seal(&KEY, expires_at);
        prop_assert_eq!(peek_labels(&sealed).unwrap(), entry.labels.clone());
        prop_assert_eq!(peek_expiry(&sealed), Some(expires_at));
        prop_assert_eq!(read(&KEY, &sealed).unwrap(), (entry, expires_at));
    }

    #[test]
    fn a_flipped_bit_is_noticed(entry in entries(), place: prop::sample::Index, bit in 0..8u8) {
        let sealed = pack(&entry).seal(&KEY, entry.expires_at);
        let mut damaged = sealed.to_vec();
        let place = place.index(damaged.len());
        damaged[place] ^= 1 << bit;
        prop_assert!(read(&KEY, &damaged.into()).is_err());
    }

    #[test]
    fn an_entry_that_was_cut_or_grew_is_noticed(entry in entries(), cut: prop::sample::Index) {
        let sealed = pack(&entry).seal(&KEY, entry.expires_at);
        let cut = cut.index(sealed.len());
        prop_assert!(read(&KEY, &sealed.slice(..cut)).is_err());
        let mut longer = sealed.to_vec();
        longer.push(0);
        prop_assert!(read(&KEY, &longer.into()).is_err());
    }

    #[test]
    fn an_entry_under_another_key_is_noticed(entry in entries(), other: [u8; 32]) {
        prop_assume!(other != *KEY.as_bytes());
        let sealed = pack(&entry).seal(&KEY, entry.expires_at);
        let other = CacheKey::from_bytes(other);
        prop_assert_eq!(read(&other, &sealed), Err(CorruptEntry::Checksum));
    }

    #[test]
    fn bytes_that_were_never_packed_are_refused_and_not_followed(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut sealed = vec![VERSION];
        sealed.extend(bytes);
        sealed.extend([0; CHECKSUM_BYTES]);
        // Whatever they say about lengths, reading them ends, with an entry or without.
        let _ = peek_labels(&sealed.clone().into());
        let _ = read(&KEY, &resealed(sealed));
    }
}

#[test]
fn only_what_is_over_the_threshold_and_gets_smaller_is_compressed() {
    let small = pack(&sample("a".repeat(900)));
    assert!(!small.is_compressed);
    assert_eq!(small.saved(), 0);
    let large = pack(&sample("a".repeat(10_000)));
    assert!(large.is_compressed);
    assert!(large.saved() > 9_000, "{}", large.saved());

    let mut bytes = vec![0; 10_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let incompressible = pack(&sample(bytes));
    assert!(!incompressible.is_compressed);
}

#[test]
fn an_entry_over_the_limit_is_not_packed() {
    let error = Packed::pack(&sample("a".repeat(2_000)), THRESHOLD, 1_000).unwrap_err();
    assert_eq!(error.limit, 1_000);
    assert!(error.bytes > 2_000);
}

#[test]
fn a_bomb_is_refused_before_it_is_inflated() {
    let bomb = Packed::pack(&sample("a".repeat(LIMIT * 8)), THRESHOLD, LIMIT * 9).unwrap();
    let sealed = bomb.seal(&KEY, Timestamp::MAX);
    assert!(sealed.len() < 10_000, "{}", sealed.len());
    let (honest, _) = Packed::open(&KEY, &sealed).unwrap();
    assert!(matches!(
        honest.unpack(LIMIT),
        Err(CorruptEntry::TooLarge { .. })
    ));
    // One that lies about its size is stopped at what it said.
    let mut lying = honest;
    lying.raw_bytes = 1_000;
    assert_eq!(lying.unpack(LIMIT), Err(CorruptEntry::Compression));
}

#[test]
fn an_entry_of_another_version_is_refused() {
    let mut sealed = pack(&sample("1")).seal(&KEY, Timestamp::MAX).to_vec();
    sealed[0] = 9;
    assert_eq!(
        read(&KEY, &resealed(sealed)).unwrap_err(),
        CorruptEntry::Version(9)
    );
}
