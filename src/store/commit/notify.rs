//! Notifications, and the pushes that follow them, written in the transaction of their change.

use super::super::{NewNotification, StoreError, value};
use super::Tx;
use super::write::column;

/// Stores the notifications; the users' inboxes.
pub(super) async fn notifications(
    tx: &mut Tx,
    rows: &[(&str, &NewNotification)],
) -> Result<(), StoreError> {
    match tx {
        Tx::Sqlite(tx) => {
            let rows = column(rows, |(project, n)| {
                let (title, body) = (value::text(&n.title), value::text(&n.body));
                let link = n.link.as_deref().map(value::text);
                let lane = n.lane.as_str();
                (&n.nid, project, &n.user, n.seq, title, body, &n.data, link, lane, n.created_at)
            });
            sqlx::query(
                "INSERT INTO notifications
                     (nid, project, user_id, evt_seq, title, body, data, link, lane, created_at)
                 SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5,
                     value->>6, value->>7, value->>8, value->>9
                 FROM json_each($1)",
            )
            .bind(value::json_text(&rows))
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            sqlx::query(
                "INSERT INTO notifications
                     (nid, project, user_id, evt_seq, title, body, data, link, lane, created_at)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[],
                     $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[])",
            )
            .bind(column(rows, |(_, n)| n.nid.as_str()))
            .bind(column(rows, |(project, _)| *project))
            .bind(column(rows, |(_, n)| n.user.as_str()))
            .bind(column(rows, |(_, n)| value::from_seq(n.seq)))
            .bind(column(rows, |(_, n)| value::text(&n.title)))
            .bind(column(rows, |(_, n)| value::text(&n.body)))
            .bind(column(rows, |(_, n)| n.data.as_deref()))
            .bind(column(rows, |(_, n)| n.link.as_deref().map(value::text)))
            .bind(column(rows, |(_, n)| n.lane.as_str()))
            .bind(column(rows, |(_, n)| n.created_at))
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// Arms a push for each notification.
pub(super) async fn push_intents(
    tx: &mut Tx,
    rows: &[(&str, &NewNotification)],
) -> Result<(), StoreError> {
    match tx {
        Tx::Sqlite(tx) => {
            let rows = column(rows, |(project, n)| {
                let lane = n.lane.as_str();
                (&n.nid, project, &n.user, n.seq, lane, n.not_before, n.created_at)
            });
            sqlx::query(
                "INSERT INTO push_intents
                     (nid, project, user_id, evt_seq, lane, not_before, updated_at)
                 SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6
                 FROM json_each($1)",
            )
            .bind(value::json_text(&rows))
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            sqlx::query(
                "INSERT INTO push_intents
                     (nid, project, user_id, evt_seq, lane, not_before, updated_at)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[],
                     $6::bigint[], $7::bigint[])",
            )
            .bind(column(rows, |(_, n)| n.nid.as_str()))
            .bind(column(rows, |(project, _)| *project))
            .bind(column(rows, |(_, n)| n.user.as_str()))
            .bind(column(rows, |(_, n)| value::from_seq(n.seq)))
            .bind(column(rows, |(_, n)| n.lane.as_str()))
            .bind(column(rows, |(_, n)| n.not_before))
            .bind(column(rows, |(_, n)| n.created_at))
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}
