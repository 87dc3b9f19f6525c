-- +goose Up

-- The state is 'pending' or one of set.State, with the amounts of a set.Position. What has reached the issuer
-- stands with the entries. spent is 0 when the payment instructions may be used again: the issuer holds
-- nothing for them. capture numbers the entry of the capture that stands, 0 for none. sale is -1, or the
-- CapCode of an authorization that was to be captured at once.
ALTER TABLE auth ADD COLUMN authorized BIGINT NOT NULL DEFAULT 0;
ALTER TABLE auth ADD COLUMN credited   BIGINT NOT NULL DEFAULT 0;
ALTER TABLE auth ADD COLUMN spent      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE auth ADD COLUMN capture    BIGINT NOT NULL DEFAULT 0;
ALTER TABLE auth ADD COLUMN sale       BIGINT NOT NULL DEFAULT -1;
ALTER TABLE auth ADD COLUMN bin        TEXT   NOT NULL DEFAULT '';
ALTER TABLE auth ADD COLUMN trans_ids  BYTEA  NOT NULL DEFAULT '';

-- What the issuer is told about an authorization after it, in this order, and what it answered. undoes
-- numbers the entry that this one takes back. What moves money has a settlement, else it is 0. The batch is -1
-- for what stands in none.
CREATE TABLE entry (
    rrn          TEXT   NOT NULL REFERENCES auth (rrn),
    number       BIGINT NOT NULL,
    kind         TEXT   NOT NULL CHECK (kind IN ('reversal', 'capture', 'capture undone', 'credit', 'credit undone')),
    undoes       BIGINT NOT NULL,
    amount       BIGINT NOT NULL,
    remains      BIGINT NOT NULL, -- of a reversal
    acquirer     TEXT   NOT NULL,
    stan         TEXT   NOT NULL,
    transmission TEXT   NOT NULL,
    merchant     TEXT   NOT NULL,
    batch        BIGINT NOT NULL,
    batch_number BIGINT NOT NULL,
    settlement   BIGINT NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('pending', 'acknowledged', 'refused', 'void')),
    code         TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    PRIMARY KEY (rrn, number)
);
CREATE INDEX entry_batch ON entry (merchant, batch, batch_number);
CREATE INDEX entry_settlement ON entry (acquirer, settlement);

-- A batch has the currency of its first item, 0 before. Its own are those that the gateway opened because the
-- merchant had none.
CREATE TABLE batch (
    merchant  TEXT   NOT NULL,
    id        BIGINT NOT NULL,
    acquirer  TEXT   NOT NULL,
    own       BIGINT NOT NULL,
    brands    TEXT   NOT NULL, -- JSON
    currency  BIGINT NOT NULL,
    numbers   BIGINT NOT NULL, -- given to items so far
    opened_ms BIGINT NOT NULL,
    closed_ms BIGINT NOT NULL, -- 0: it is open
    closed_by BIGINT NOT NULL,
    PRIMARY KEY (merchant, id)
);
CREATE INDEX batch_open ON batch (acquirer, own) WHERE closed_ms = 0;

-- New entries belong to the one settlement that is open. A settlement is closing until the issuer has the same
-- totals and its report is written.
CREATE TABLE settlement (
    acquirer  TEXT   NOT NULL,
    number    BIGINT NOT NULL,
    state     TEXT   NOT NULL CHECK (state IN ('open', 'closing', 'closed')),
    opened_ms BIGINT NOT NULL,
    cut_ms    BIGINT NOT NULL,
    closed_ms BIGINT NOT NULL,
    PRIMARY KEY (acquirer, number)
);

-- What the issuer says that cardholders were debited with, where it is what the merchants are paid.
CREATE TABLE reconciled (
    acquirer TEXT   NOT NULL,
    number   BIGINT NOT NULL,
    currency BIGINT NOT NULL,
    debits   BIGINT NOT NULL,
    PRIMARY KEY (acquirer, number, currency)
);

-- What there is already: one clearing or reversal of an authorization, of which a job is left if the issuer has
-- not answered. A clearing from before clearings had a trace of their own has that of its
-- authorization, which is no other clearing's; it belongs to settlement 1 unless it was cleared then, when there
-- were no settlements.
INSERT INTO settlement (acquirer, number, state, opened_ms, cut_ms, closed_ms)
    SELECT acquirer, 1, 'open', MIN(created_ms), 0, 0 FROM auth GROUP BY acquirer;
INSERT INTO entry (rrn, number, kind, undoes, amount, remains, acquirer, stan, transmission, merchant, batch, batch_number, settlement, state, code, created_ms)
    SELECT rrn, 1, 'capture', 0, captured, 0, acquirer,
        CASE WHEN clear_stan = '' THEN stan ELSE clear_stan END,
        CASE WHEN clear_stan = '' THEN transmission ELSE clear_transmission END, merchant, -1, 0,
        CASE WHEN clear_stan = '' AND state = 'cleared' THEN 0 ELSE 1 END,
        CASE state WHEN 'captured' THEN 'pending' WHEN 'cleared' THEN 'acknowledged' ELSE 'refused' END, '', created_ms
    FROM auth WHERE state IN ('captured', 'cleared', 'clearing refused');
INSERT INTO entry (rrn, number, kind, undoes, amount, remains, acquirer, stan, transmission, merchant, batch, batch_number, settlement, state, code, created_ms)
    SELECT rrn, 1, 'reversal', 0, amount, 0, acquirer, stan, transmission, merchant, -1, 0, 0,
        CASE state WHEN 'reversing' THEN 'pending' WHEN 'reversed' THEN 'acknowledged' ELSE 'refused' END, '', created_ms
    FROM auth WHERE state IN ('reversing', 'reversed', 'reversal refused');
DROP INDEX auth_pi;
UPDATE auth SET spent = 1 WHERE state NOT IN ('declined', 'reversed');
UPDATE auth SET authorized = amount WHERE state IN ('pending', 'approved', 'captured', 'cleared', 'clearing refused');
UPDATE auth SET capture = 1 WHERE state IN ('captured', 'cleared', 'clearing refused');
UPDATE auth SET state = 'authorized' WHERE state = 'approved';
UPDATE auth SET state = 'captured' WHERE state IN ('cleared', 'clearing refused');
UPDATE auth SET state = 'declined' WHERE state IN ('reversing', 'reversed', 'reversal refused');
CREATE UNIQUE INDEX auth_pi ON auth (xid, pi_digest) WHERE spent = 1;
CREATE INDEX auth_xid ON auth (xid);
