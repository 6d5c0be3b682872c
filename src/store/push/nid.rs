//! The ids of notifications: in the order in which a person should see them, whatever an instance's clock says.

use uuid::Builder;

/// An id from the database's clock, so that none is made which sorts before what a person has seen already: an
/// inbox is read, paged and marked as read "up to" one. Within a millisecond the position in the log decides.
pub(in crate::store) fn nid(now_ms: i64, seq: i64) -> String {
    let mut rest: [u8; 10] = rand::random();
    // The twelve bits behind the time.
    let position = u16::try_from(seq & 0xFFF).unwrap_or(0);
    rest[..2].copy_from_slice(&position.to_be_bytes());
    let now = u64::try_from(now_ms).unwrap_or(0);
    Builder::from_unix_timestamp_millis(now, &rest).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_then_by_the_position_in_the_log() {
        let mut ids = vec![nid(1, 9)];
        ids.extend((1..300).map(|seq| nid(2, seq)));
        ids.push(nid(3, 0));
        assert!(ids.is_sorted(), "{ids:?}");
        let id: uuid::Uuid = ids[0].parse().unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_timestamp().unwrap().to_unix(), (0, 1_000_000));
        assert_ne!(nid(1, 1), nid(1, 1));
    }
}
