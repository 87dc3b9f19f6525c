-- +goose Up

-- What of a purchase may be cleared, what is held for it now, and what was paid back of what was cleared.
ALTER TABLE purchase ADD COLUMN authorized BIGINT NOT NULL DEFAULT 0;
ALTER TABLE purchase ADD COLUMN hold BIGINT NOT NULL DEFAULT 0;
ALTER TABLE purchase ADD COLUMN refunded BIGINT NOT NULL DEFAULT 0;
UPDATE purchase SET authorized = amount WHERE state IN ('held', 'lapsed', 'cleared');
UPDATE purchase SET hold = amount WHERE state = 'held';

-- Every clearing, refund, and withdrawal of one that was answered. A withdrawal names, in of_, the clearing or
-- refund, the others the authorization. moved is 0, or the amount if it was booked.
CREATE TABLE advice (
    acquirer        TEXT   NOT NULL,
    stan            TEXT   NOT NULL,
    rrn             TEXT   NOT NULL,
    transmission    TEXT   NOT NULL,
    kind            TEXT   NOT NULL CHECK (kind IN ('clearing', 'refund', 'clearing withdrawn', 'refund withdrawn')),
    of_stan         TEXT   NOT NULL,
    of_transmission TEXT   NOT NULL,
    amount          BIGINT NOT NULL,
    currency        BIGINT NOT NULL,
    settlement      BIGINT NOT NULL,
    code            TEXT   NOT NULL, -- what was answered
    moved           BIGINT NOT NULL,
    at_s            BIGINT NOT NULL,
    PRIMARY KEY (acquirer, stan, rrn, transmission)
);
CREATE INDEX advice_settlement ON advice (acquirer, settlement, currency);
CREATE INDEX advice_of ON advice (acquirer, rrn);

-- Settlements that both sides have the same totals of. They take nothing new.
CREATE TABLE settlement (
    acquirer TEXT   NOT NULL,
    number   BIGINT NOT NULL,
    currency BIGINT NOT NULL,
    closed_s BIGINT NOT NULL,
    PRIMARY KEY (acquirer, number, currency)
);
