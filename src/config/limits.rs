use serde::{Deserialize, Serialize};

/// `[limits]`: what a stranger may send, and how much. Reported to clients in `connected.limits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message from a client. Default 1 MiB.
    pub frame_bytes: usize,
    /// Bytes of an HTTP request body. Default 4 MiB.
    pub body_bytes: usize,
    /// Rooms one connection may be in, name in one frame, and join or leave per second, in bursts of twice as
    /// many. Default 200.
    pub rooms: usize,
    /// Operations in one `write`. Default 500.
    pub ops_per_write: usize,
    /// Bytes of one operation. Default 256 KiB.
    pub op_bytes: usize,
    /// Recipients of one notification. Default 500.
    pub notify_users: usize,
    /// Members of a project that one operation of a client may notify by `members` or `roles`. Events of backends
    /// and `push.rules` may notify more. Default 10 000.
    pub notify_members: u64,
    /// Operations in one group. Default 100.
    pub ops_per_group: usize,
    /// Fields in one operation, or in an event of a backend. Default 256.
    pub op_fields: usize,
    /// How deep arrays and objects nest in a field's value. Default 16, at most 60.
    pub op_depth: usize,
    /// Bytes of one text in a field. Default 64 KiB.
    pub op_string_bytes: usize,
    /// Bytes of an entity: its fields as JSON, and who set each of them when. Default 512 KiB.
    pub entity_bytes: usize,
    /// Bytes of one presence state. Default 1 KiB.
    pub presence_bytes: usize,
    /// Requests one connection may have unanswered. Default 64.
    pub requests_in_flight: usize,
    /// Operations per second and connection; bursts of twice as many. Default 500.
    pub ops_per_second: u32,
    /// Broadcasts per second and connection; bursts of twice as many. Default 50.
    pub broadcasts_per_second: u32,
    /// Presence updates per second and connection; bursts of twice as many. Default 10.
    pub presence_per_second: u32,
    /// Other frames per second and connection; bursts of twice as many. Default 100.
    pub frames_per_second: u32,
    /// Operations per second and user, over all instances; approximate. Default 2000.
    pub user_ops_per_second: u32,
    /// Broadcasts per second and user, over all instances; approximate. Default 200.
    pub user_broadcasts_per_second: u32,
    /// Connections in all. Default 100 000.
    pub connections: usize,
    /// Connections of one user on one instance. Default 50.
    pub connections_per_user: usize,
    /// Connections from one address on one instance. Default 20 000, for carriers' NAT.
    pub connections_per_ip: usize,
    /// Connections that are no WebSocket, or not yet; one more is turned away with 503. Default 10 000.
    pub http_connections: usize,
    /// Those from one address. No token is asked of them, so no address gets all the places. Default 1000.
    pub http_connections_per_ip: usize,
    /// Bytes waiting for one connection; above it the connection is closed with 4001. Default 1 MiB.
    pub outbox_bytes: usize,
    /// Bytes of changes sent to a catching-up connection before it has to read them. Default 256 KiB.
    pub catch_up_bytes: usize,
    /// Catch-up reads of the store under way at once; fewer than `store.connections`, which writers need too.
    /// Default 3.
    pub catch_ups: usize,
    /// Changes in one page of a catch-up, and of `/changes` unless the client names a `limit`. Default 500.
    pub page_changes: u32,
    /// Rows a client may ask for in one reply of `/changes`. Default 100 000.
    pub delta_rows: u32,
    /// Bytes of recent changes kept in memory per active project, to resume from. Default 1 MiB.
    pub recent_bytes: usize,
    /// Resident memory above which new connections are refused with 4200; 0 turns it off. Default 0.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 1 << 20,
            body_bytes: 4 << 20,
            rooms: 200,
            ops_per_write: 500,
            op_bytes: 256 << 10,
            notify_users: 500,
            notify_members: 10_000,
            ops_per_group: 100,
            op_fields: 256,
            op_depth: 16,
            op_string_bytes: 64 << 10,
            entity_bytes: 512 << 10,
            presence_bytes: 1 << 10,
            requests_in_flight: 64,
            ops_per_second: 500,
            broadcasts_per_second: 50,
            presence_per_second: 10,
            frames_per_second: 100,
            user_ops_per_second: 2000,
            user_broadcasts_per_second: 200,
            connections: 100_000,
            connections_per_user: 50,
            connections_per_ip: 20_000,
            http_connections: 10_000,
            http_connections_per_ip: 1000,
            outbox_bytes: 1 << 20,
            catch_up_bytes: 256 << 10,
            catch_ups: 3,
            page_changes: 500,
            delta_rows: 100_000,
            recent_bytes: 1 << 20,
            memory_bytes: 0,
        }
    }
}
