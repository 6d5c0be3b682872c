//! The checksum of a scope: what tells a client whether its copy is right, and which part of it is not.
//!
//! SHA-256, because clients have it anyway for the checksums of operations, it is the same 32-bit
//! arithmetic in every language, and `sha256sum` can be asked. docs/PROTOCOL.md has the test vectors.

use sha2::{Digest, Sha256};

use crate::id::{EntityKey, Seq};

/// Entities fall into this many buckets.
pub const BUCKETS: usize = 64;

/// The bucket of an entity: the upper six bits of the first byte of SHA-256 over `type:id`.
#[must_use]
pub fn bucket(key: &EntityKey) -> u8 {
    let digest = Sha256::digest(format!("{}:{}", key.kind, key.id));
    digest[0] >> 2
}

/// What an entity adds to its bucket: the first eight bytes of SHA-256 over `type:id:version`, big-endian.
#[must_use]
pub fn entry(key: &EntityKey, version: Seq) -> u64 {
    let digest = Sha256::digest(format!("{}:{}:{version}", key.kind, key.id));
    digest[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// One bucket: how many entities, and the wrapping sum of their entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// How many living entities.
    pub count: u64,
    /// The sum modulo 2^64.
    pub sum: u64,
}

impl Bucket {
    /// The bucket of one living entity alone.
    #[must_use]
    pub fn of(key: &EntityKey, version: Seq) -> Self {
        Self { count: 1, sum: entry(key, version) }
    }
}

impl std::ops::AddAssign for Bucket {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl serde::Serialize for Bucket {
    /// The sum is 16 hex digits: no JSON number holds it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut bucket = serializer.serialize_struct("Bucket", 2)?;
        bucket.serialize_field("sum", &format_args!("{:016x}", self.sum))?;
        bucket.serialize_field("count", &self.count)?;
        bucket.end()
    }
}

/// The buckets of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(pub [Bucket; BUCKETS]);

impl Default for Sums {
    fn default() -> Self {
        Self([Bucket::default(); BUCKETS])
    }
}

impl Sums {
    /// Adds a living entity; the order does not matter.
    pub fn add(&mut self, key: &EntityKey, version: Seq) {
        self.0[usize::from(bucket(key))] += Bucket::of(key, version);
    }
}

/// A set of buckets, as `buckets=3,17` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSet(u64);

impl BucketSet {
    /// Reads numbers below 64, separated by commas.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',').try_fold(Self(0), |set, number| {
            let number = number.parse::<u8>().ok().filter(|n| usize::from(*n) < BUCKETS)?;
            Some(Self(set.0 | 1 << number))
        })
    }

    /// Whether the entity falls into one of them.
    #[must_use]
    pub fn contains(self, key: &EntityKey) -> bool {
        self.0 >> bucket(key) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, id: &str) -> EntityKey {
        EntityKey { kind: kind.parse().unwrap(), id: id.parse().unwrap() }
    }

    const VECTORS: [(&str, &str, u64, u8, &str); 4] = [
        ("task", "t1", 7, 23, "307169ef1a707486"),
        ("task", "t1", 8, 23, "9ae3c385359212a3"),
        ("user", "ana é", 1, 53, "66533ca5d6312fd7"),
        ("attendance", "2026-11-26/17", 9_007_199_254_740_991, 1, "13295367735d357e"),
    ];

    /// The vectors of docs/PROTOCOL.md, made with `printf %s task:t1:7 | sha256sum`.
    #[test]
    fn the_documented_vectors_hold() {
        for (kind, id, version, in_bucket, adds) in VECTORS {
            let key = key(kind, id);
            assert_eq!(bucket(&key), in_bucket, "{kind}:{id}");
            assert_eq!(
                format!("{:016x}", entry(&key, Seq(version))),
                adds,
                "{kind}:{id}:{version}"
            );
        }
    }

    #[test]
    fn sums_wrap_and_do_not_depend_on_the_order() {
        let keys: Vec<_> = (0..500).map(|n| key("task", &format!("t{n}"))).collect();
        let (mut there, mut back) = (Sums::default(), Sums::default());
        keys.iter().for_each(|key| there.add(key, Seq(5)));
        keys.iter().rev().for_each(|key| back.add(key, Seq(5)));
        assert_eq!(there, back);
        assert_eq!(there.0.iter().map(|bucket| bucket.count).sum::<u64>(), 500);
        assert!(there.0.iter().all(|bucket| bucket.count > 0), "a bucket nothing falls into");
        let json = serde_json::to_value(Bucket { count: 2, sum: 10 }).unwrap();
        assert_eq!(json, serde_json::json!({ "sum": "000000000000000a", "count": 2 }));
    }

    #[test]
    fn bucket_sets_are_numbers_below_64() {
        let all = (0..64).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(BucketSet::parse(&all), Some(BucketSet(u64::MAX)));
        assert_eq!(BucketSet::parse("3,3,0"), Some(BucketSet(9)));
        for wrong in ["", "64", "-1", "3,", "3;4", "a", "256"] {
            assert_eq!(BucketSet::parse(wrong), None, "{wrong}");
        }
    }
}
