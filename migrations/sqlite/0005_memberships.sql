-- Who is in a project, as the product's back office says; role NULL takes away what a token grants.
-- revision: rises with every change, over all projects, in commit order.
CREATE TABLE memberships (
    project    TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    role       TEXT,
    revision   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (project, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_revision ON memberships (revision);

-- Its one row is locked first by every transaction that changes memberships.
-- forgotten: the revision of the latest deletion of a row.
CREATE TABLE membership_head (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    revision  INTEGER NOT NULL,
    forgotten INTEGER NOT NULL
) STRICT;
INSERT INTO membership_head (one, revision, forgotten) VALUES (1, 0, 0);
