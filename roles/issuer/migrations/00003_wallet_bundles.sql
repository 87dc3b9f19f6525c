-- +goose Up

-- The wallet bundles that the bank has signed. The last is the one that is given out.
CREATE TABLE wallet_bundle (
    sequence BIGINT NOT NULL PRIMARY KEY,
    made_s   BIGINT NOT NULL,
    file     BYTEA  NOT NULL
);
