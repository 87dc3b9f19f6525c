-- +goose Up

-- Where the card's CA is, and when it was last asked for revocation lists.
ALTER TABLE card ADD COLUMN ca_url TEXT NOT NULL DEFAULT '';
ALTER TABLE card ADD COLUMN asked_s BIGINT NOT NULL DEFAULT 0;

-- Registrations whose request was sent, until the CA has decided. One for each smart card, which alone opens
-- sealed: card number, expiry and secrets are in it.
CREATE TABLE pending (
    serial TEXT   NOT NULL PRIMARY KEY, -- of the smart card
    bank   TEXT   NOT NULL,             -- whose bundle it was enrolled with, or empty
    ca_url TEXT   NOT NULL,
    root   BYTEA  NOT NULL,
    sealed BYTEA  NOT NULL,
    sent_s BIGINT NOT NULL
);
