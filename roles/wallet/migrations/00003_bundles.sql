-- +goose Up

-- Installed wallet bundles: of each bank the last. The next one of the bank must have a higher sequence
-- number, and the signature of the key that signed this one.
CREATE TABLE bundle (
    bank        TEXT   NOT NULL PRIMARY KEY, -- as the file names it
    file        BYTEA  NOT NULL,
    installed_s BIGINT NOT NULL
);

ALTER TABLE card ADD COLUMN bank TEXT NOT NULL DEFAULT ''; -- of whose bundle the card was enrolled with
